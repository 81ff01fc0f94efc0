"""Classes of kernels, from HLO text."""

import pytest

from fastmim_jax.tools.hlo import CLASSES, classify, library_class, parse

BLOCK = "jit(step)/jvp(FastMIM)/encoder/blocks/0"
ATTENTION = f"{BLOCK}/attn"
BACKWARD = (
    "jit(step)/transpose(jvp(FastMIM))/encoder/blocks/0/norm1/jvp(FastMIM)/encoder/blocks/0/norm1/mul"
)
TEXT = f"""HloModule jit_step, is_scheduled=true

%gelu (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  ROOT %erf.1 = f32[8]{{0}} erf(%a), metadata={{op_name="{BLOCK}/mlp/fc2/erf"}}
}}

%norm (b: f32[8]) -> (f32[8], f32[]) {{
  %b = f32[8]{{0}} parameter(0)
  %multiply.1 = f32[8]{{0}} multiply(%b, %b), metadata={{op_name="{BACKWARD}"}}
  %reduce.1 = f32[] reduce(%multiply.1), dimensions={{0}}, to_apply=%add
  ROOT %tuple.1 = (f32[8]{{0}}, f32[]) tuple(%multiply.1, %reduce.1)
}}

%softmax (c: f32[8]) -> f32[8] {{
  %c = f32[8]{{0:T(128)}} parameter(0)
  ROOT %exp.1 = f32[8]{{0:T(128)}} exponential(%c), metadata={{op_name="{BLOCK}/attn/vmap()/exp"}}
}}

%scores (d: f32[8]) -> f32[8] {{
  %d = f32[8]{{0}} parameter(0)
  ROOT %dot.1 = f32[8] dot(%d, %d), lhs_batch_dims={{0,1}}, metadata={{op_name="{ATTENTION}/dot_general"}}
}}

%linear (e: f32[8]) -> f32[8] {{
  %e = f32[8]{{0}} parameter(0)
  %dot.2 = f32[8]{{0}} dot(%e, %e), metadata={{op_name="{ATTENTION}/qkv/dot_general"}}
  ROOT %add.2 = f32[8]{{0}} add(%dot.2, %e), metadata={{op_name="{ATTENTION}/qkv/add"}}
}}

%move (f: f32[8]) -> bf16[8] {{
  %f = f32[8]{{0}} parameter(0)
  %transpose.1 = f32[8]{{0}} transpose(%f), dimensions={{0}}, metadata={{op_name="{BLOCK}/attn/transpose"}}
  ROOT %convert.1 = bf16[8]{{0}} convert(%transpose.1)
}}

%adam (g: f32[8]) -> f32[8] {{
  %g = f32[8]{{0}} parameter(0)
  ROOT %sqrt.1 = f32[8]{{0}} sqrt(%g), metadata={{op_name="jit(step)/optimizer/sqrt"}}
}}

ENTRY %main.1 (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %fusion.1 = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%gelu
  %fusion.2 = (f32[8]{{0}}, /*index=1*/f32[]) fusion(%x), kind=kInput, calls=%norm
  %fusion.3 = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%softmax
  %fusion.4 = f32[8]{{0}} fusion(%x), kind=kCustom, calls=%scores
  %fusion.5 = f32[8]{{0}} fusion(%x), kind=kCustom, calls=%linear
  %fusion.6 = bf16[8]{{0}} fusion(%x), kind=kLoop, calls=%move
  %fusion.7 = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%adam
  %blas.1 = (f32[8]{{0}}, s8[4]{{0}}) custom-call(%x), custom_call_target="__cublas$lt$matmul"
  %fmha.1 = f32[8]{{0}} custom-call(%x), custom_call_target="__cudnn$fmhaSoftmax"
  %pallas_call.1 = f32[8]{{0}} custom-call(%x), custom_call_target="__gpu$xla.gpu.triton", \
metadata={{op_name="{BLOCK}/layer_norm_gradient/pallas_call"}}
  %pallas_call.2 = f32[8]{{0}} custom-call(%x), custom_call_target="__gpu$xla.gpu.triton", \
metadata={{op_name="jit(step)/large_window_query_gradient/pallas_call"}}
  %all-reduce-start.1 = f32[8]{{0}} all-reduce-start(%x), to_apply=%add
  %sort.1 = f32[8]{{0}} sort(%x), to_apply=%less
  %reduce.2 = f32[] reduce(%x), to_apply=%add, metadata={{op_name="jit(step)/jvp(FastMIM)/reduce_sum"}}
  %bias.1 = f32[8]{{0}} add(%x, %x), metadata={{op_name="{ATTENTION}/qkv/add"}}
  %while.1 = f32[8]{{0}} while(%x), condition=%less, body=%gelu
  ROOT %copy.1 = f32[8]{{0}} copy(%x)
}}
"""


@pytest.fixture(scope="module")
def module():
    return parse(TEXT)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fusion.1", "gelu"),
        ("fusion.2", "norm"),
        ("fusion.3", "attention"),
        ("fusion.4", "attention products"),
        ("fusion.5", "products"),
        ("fusion.6", "copies and transposes"),
        ("fusion.7", "optimizer"),
        ("blas.1", "products"),
        ("fmha.1", "attention"),
        ("pallas_call.1", "norm"),
        ("pallas_call.2", "attention"),
        ("all-reduce-start.1", "collectives"),
        ("sort.1", "sort and gather"),
        ("reduce.2", "reductions"),
        ("bias.1", "other elementwise"),
        ("copy.1", "copies and transposes"),
    ],
)
def test_a_kernel_is_classified_by_what_it_contains(module, name, expected):
    assert classify(name, module) == expected and expected in CLASSES


def test_wrappers_and_unknown_names_have_no_class(module):
    assert classify("while.1", module) is None
    assert classify("fusion.99", module) is None


def test_kernels_without_an_instruction_are_classified_by_their_names():
    assert library_class("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT") == "products"
    assert library_class("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma") == "attention"
    assert library_class("ncclDevKernel_AllReduce_Sum_bf16_RING_LL") == "collectives"
    assert library_class("MemcpyD2D") == "copies and transposes"
    assert library_class("add_layer_norm") == "norm"
    assert library_class("window_attention_gradient") == "attention"
    assert library_class("large_window_bias_gradient") == "attention"
    assert library_class("loop_convert_fusion_3") is None
