"""What the study led to (docs/study.md): no published recipe."""

from dataclasses import replace

from policies.grammar import Recipe
from policies.recipes.adapt_inf import ADAPT_INF

TRIMMED_POOL = Recipe.parse(
    "trimmed-pool",
    "candidates pool · clusters source · router always[perplexity] · budget even"
    " · sample ccs[strata=1 tails=0.3 ends=high]",
    summary="The same of each dataset that the pool holds, without the three in ten whose answers are least likely",
)
ADAPT_AVERAGE = replace(
    ADAPT_INF.replace(start="average"),
    name="adapt-average",
    summary="As adapt-inf; a timestep keeps the mean of the adapters before and after it",
)
