"""What workers train in tests: two small networks, and a seed that kills."""

import os
import signal
from pathlib import Path

TINY = "28px stem8 ds_r1_k3_s2_e1_c8 ir_r1_k3_s2_e3_c16 head32"
OTHER = "28px stem8 ds_r1_k5_s2_e1_c8 ir_r1_k3_s2_e3_c16 head32"


class Die(int):
    """A seed, 0, that kills the process that trains from it, so often; a file counts."""

    def __new__(cls, file: Path, times: int) -> "Die":
        self = super().__new__(cls, 0)
        self.file, self.times = file, times
        return self

    def __getnewargs__(self) -> tuple[Path, int]:  # type: ignore[override]
        return self.file, self.times

    def __int__(self) -> int:
        with self.file.open("a") as file:
            file.write("x")
        if len(self.file.read_text()) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0
