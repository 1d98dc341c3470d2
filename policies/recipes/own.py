"""What the study led to (docs/study.md): no published recipe."""

from policies.grammar import Recipe

TRIMMED_POOL = Recipe.parse(
    "trimmed-pool",
    "candidates pool · clusters source · router always[perplexity] · budget even"
    " · sample ccs[strata=1 tails=0.3 ends=high]",
    summary="The same of each dataset that the pool holds, without the three in ten whose answers are least likely",
)
