from .presets import BLUR_REACH as BLUR_REACH
from .presets import DEGRADATIONS as DEGRADATIONS
from .presets import parse_degradation as parse_degradation
from .remains import OCTAVES as OCTAVES
from .remains import Remains as Remains
from .remains import Tally as Tally
from .sampling import Degradation as Degradation
from .sampling import to_8_bit as to_8_bit
