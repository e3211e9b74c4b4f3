"""What every room needs: errors, files, units, and how a command ends."""
