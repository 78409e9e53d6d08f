"""Train and fine-tune networks, on one or several devices, with resumable runs.

Read `loop` first. `dataset` loads photographs, `patches` cuts them on the device, and `pairs` makes
training pairs. `optimization` makes a step, and `validation` measures a network. `state` holds the
settings and the state of a run, `interruption` lets signals wait for the end of a step, and
`distributed` shares a run among the processes of torchrun.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
