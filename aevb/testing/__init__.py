"""What every block must hold, as checks that a test of one's own block calls in one line.

Each takes a function that makes the block afresh, and raises an ``AssertionError`` that says what does not hold. This
package's own tests run them over every block there is.
"""

from .estimators import check_estimator
from .guides import check_guide
from .likelihoods import check_likelihood
from .objectives import check_objective
from .priors import check_prior

__all__ = ["check_estimator", "check_guide", "check_likelihood", "check_objective", "check_prior"]
