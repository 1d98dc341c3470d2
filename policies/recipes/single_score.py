"""Score-based replay: one expert for the whole pool."""

from policies.grammar import Recipe

EL2N = Recipe.parse(
    "el2n",
    "router always[el2n] · sample top",
    paper="arXiv 2107.07075",
    summary="The samples whose predictions are furthest from their answers",
)
PERPLEXITY = Recipe.parse(
    "perplexity",
    "router always[perplexity] · sample top",
    paper="arXiv 2309.04564",
    summary="The samples of highest perplexity",
)
PERPLEXITY_MIDDLE = Recipe.parse(
    "perplexity-middle",
    "router always[perplexity] · sample middle",
    paper="arXiv 2309.04564",
    summary="The samples nearest to the median perplexity",
)
PERPLEXITY_LOW = Recipe.parse(
    "perplexity-low",
    "router always[perplexity] · sample bottom",
    paper="arXiv 2309.04564",
    summary="The samples of lowest perplexity",
)
GRAND = Recipe.parse(
    "grand",
    "router always[grand] · sample top",
    paper="arXiv 2107.07075",
    summary="The samples of largest gradient norm",
)
ENTROPY = Recipe.parse(
    "entropy",
    "router always[entropy] · sample top",
    paper="arXiv 1906.11829",
    summary="The samples whose answers the model is least sure of",
)
GROUNDING = Recipe.parse(
    "grounding",
    "router always[grounding] · sample top",
    paper="arXiv 2410.10636",
    summary="The samples whose image helps most",
)
IFD = Recipe.parse(
    "ifd",
    "router always[ifd] · sample top",
    paper="arXiv 2308.12032",
    summary="The samples whose question helps least, and still helps, to their answer",
)
