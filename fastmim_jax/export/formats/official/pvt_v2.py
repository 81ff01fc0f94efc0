"""Key table of the published PVT v2, whose names number the stages from 1; ours count from 0."""

from fastmim_jax.export.formats.rules import CONV, LINEAR, NORM, Rule

_BLOCK = {
    "norm1": NORM,
    "attn.q": LINEAR,
    "attn.kv": LINEAR,
    "attn.sr": CONV,
    "attn.norm": NORM,
    "attn.proj": LINEAR,
    "norm2": NORM,
    "mlp.fc1": LINEAR,
    "mlp.dwconv": CONV,
    "mlp.fc2": LINEAR,
}


def _stage(number: int) -> tuple[Rule, ...]:
    patches = f"downsamples_{number - 2}" if number > 1 else "stem"
    blocks = f"encoder/stages_{number - 1}/blocks"
    return (
        Rule(f"patch_embed{number}.proj", f"encoder/{patches}/patch", CONV),
        Rule(f"patch_embed{number}.norm", f"encoder/{patches}/norm", NORM),
        *(
            Rule(
                # The published convolution is a module inside the module of that name.
                f"block{number}.{{}}.{part.replace('dwconv', 'dwconv.dwconv')}",
                f"{blocks}/{{}}/{part.replace('.', '/')}",
                arrays,
            )
            for part, arrays in _BLOCK.items()
        ),
        Rule(f"norm{number}", f"encoder/stages_{number - 1}/norm", NORM),
    )


PVT_V2 = tuple(rule for number in (1, 2, 3, 4) for rule in _stage(number))
