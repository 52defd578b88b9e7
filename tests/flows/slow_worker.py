"""The flow `dept-work`, where each stack takes two seconds more: so that there is work for a second worker."""

import time

from flows.execution import training
from flows.work import dept_work

_train = training.train_claims


def _slow(context, lease, claims):
    time.sleep(2 if claims else 0)
    return _train(context, lease, claims)


from flows.execution import work  # noqa: E402

work.train_claims = _slow
__all__ = ["dept_work"]
