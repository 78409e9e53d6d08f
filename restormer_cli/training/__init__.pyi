from .distributed import join_ranks as join_ranks
from .loop import LITE as LITE
from .loop import Step as Step
from .loop import train as train
from .state import Settings as Settings
from .state import parse_stages as parse_stages
from .validation import Validation as Validation
