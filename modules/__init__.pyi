"""The public names of `modules`, one per line: `X as X` is how a stub exports. `__init__.py` reads them here, too."""

from modules.contrastive_module import ContrastiveModule as ContrastiveModule
from modules.encoding.text_encoder import TextEncoder as TextEncoder
from modules.errors import UserError as UserError
from modules.losses import Loss as Loss
from modules.losses.task_batch import LossConfig as LossConfig
from modules.losses.task_batch import TaskBatch as TaskBatch
from modules.merge_module import MergeModule as MergeModule
from modules.merging import Average as Average
from modules.merging import Dare as Dare
from modules.merging import Fisher as Fisher
from modules.merging import MergeMethod as MergeMethod
from modules.merging import MultiSlerp as MultiSlerp
from modules.merging import RegMean as RegMean
from modules.merging import Slerp as Slerp
from modules.merging import SphericalMean as SphericalMean
from modules.merging import TaskArithmetic as TaskArithmetic
from modules.merging import Ties as Ties
from modules.positioning.experts import Expert as Expert
from modules.search import Adam as Adam
from modules.search import Bfgs as Bfgs
from modules.search import CmaEs as CmaEs
from modules.search import Search as Search
