"""Many trials read from a database at once.

Optuna makes an object of every parameter and attribute that it reads, of 10,000 trials more than half a million, and
parses each parameter's distribution twice. Here they are plain rows, and equal distributions are parsed once: the same
trials in a tenth of the time. Who opens a study waits for that, and so does, at each trial, who shares one.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from functools import lru_cache
from typing import Any

import sqlalchemy
from optuna.distributions import json_to_distribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import InstrumentedAttribute, Session

_FEW = 600  # trials that are asked for by name: databases find those at once, and refuse questions of many words
_distribution = lru_cache(maxsize=4096)(json_to_distribution)
_value = models.TrialValueModel.stored_repr_to_value
_step = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value


class Storage(RDBStorage):
    """Optuna's storage in a database; its cache asks it for trials by `_get_trials`."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """The trials of a study that are among the included ones or newer, by rising id.

        Their state is read first: whose end is seen has all that was written before it. Raises StorageInternalError for
        what is no trial.
        """
        try:
            return self._read(study_id, states, included_trial_ids, trial_id_greater_than)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StorageInternalError(f"a trial is damaged: {error}") from error

    def _read(
        self, study_id: int, states: Container[TrialState] | None, included_trial_ids: set[int], after: int
    ) -> list[FrozenTrial]:
        head, param, value, user, system, step = (
            models.TrialModel,
            models.TrialParamModel,
            models.TrialValueModel,
            models.TrialUserAttributeModel,
            models.TrialSystemAttributeModel,
            models.TrialIntermediateValueModel,
        )
        newer = head.trial_id > after
        older = [trial_id for trial_id in included_trial_ids if trial_id <= after]
        wanted = (head.study_id == study_id, newer | head.trial_id.in_(older) if older else newer)
        with Session(self.engine) as session:
            heads = session.scalars(sqlalchemy.select(head).where(*wanted).order_by(head.trial_id))
            trials = {head.trial_id: _empty(head) for head in heads if states is None or head.state in states}

            def cells(order: InstrumentedAttribute[int], *columns: InstrumentedAttribute[Any]) -> Iterator[Any]:
                """Each row of a table, with the trial that it belongs to."""
                table = order.class_
                query = sqlalchemy.select(table.trial_id, *columns).order_by(order)
                few = len(trials) <= _FEW
                query = query.where(table.trial_id.in_(trials)) if few else query.join(head).where(*wanted)
                for trial_id, *cell in session.execute(query):
                    if trial_id in trials:
                        yield trials[trial_id], *cell

            for trial, name, number, text in cells(
                param.param_id, param.param_name, param.param_value, param.distribution_json
            ):
                trial.distributions[name] = _distribution(text)
                trial.params[name] = trial.distributions[name].to_external_repr(number)
            for trial, *told in cells(value.objective, value.value, value.value_type):
                trial.values = [*(trial.values or ()), _value(*told)]
            for trial, key, text in cells(user.trial_user_attribute_id, user.key, user.value_json):
                trial.user_attrs[key] = json.loads(text)
            for trial, key, text in cells(system.trial_system_attribute_id, system.key, system.value_json):
                trial.system_attrs[key] = json.loads(text)
            for trial, number, *told in cells(
                step.trial_intermediate_value_id, step.step, step.intermediate_value, step.intermediate_value_type
            ):
                trial.intermediate_values[number] = _step(*told)
            return list(trials.values())


def _empty(head: Any) -> FrozenTrial:
    """A trial of which only its own row is known."""
    return FrozenTrial(
        number=head.number,
        state=head.state,
        value=None,
        datetime_start=head.datetime_start,
        datetime_complete=head.datetime_complete,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=head.trial_id,
    )
