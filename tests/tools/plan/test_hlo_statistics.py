"""Statistics of HLO text."""

from fastmim_jax.tools.plan.hlo_statistics import BETWEEN_SLICES, shape_bytes, statistics

TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum.1 = f32[] add(%a, %b)
}

%fused (c: f32[4]) -> f32[4] {
  %c = f32[4]{0} parameter(0)
  ROOT %copy.1 = f32[4]{0} copy(%c)
}

%less (d: (s32[], f32[1024])) -> pred[] {
  %d = (s32[], f32[1024]{0:T(128)}) parameter(0)
  %bound.1 = s32[]{:T(128)} constant(3)
  %turn.1 = s32[]{:T(128)} get-tuple-element(%d), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%turn.1, %bound.1), direction=LT
}

%body (e: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %e = (s32[], f32[1024]{0:T(128)}) parameter(0)
  %x.1 = f32[1024]{0:T(128)} get-tuple-element(%e), index=1
  %all-reduce.1 = f32[1024]{0:T(128)} all-reduce(%x.1), replica_groups={{0,1}}, to_apply=%add
  ROOT %tuple.1 = (s32[], f32[1024]{0:T(128)}) tuple(%turn, %all-reduce.1)
}

ENTRY %main (p: f32[1024]) -> f32[1024] {
  %p = f32[1024]{0:T(128)} parameter(0)
  %while.1 = (s32[], f32[1024]{0:T(128)}) while(%t), condition=%less, body=%body
  %while.2 = (s32[], f32[1024]{0:T(128)}) while(%t), condition=%less, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %scatter.1 = f32[512]{0} reduce-scatter(%p), dimensions={0}, to_apply=%add
  %gather-start.1 = (f32[512]{0}, f32[1024]{0}) all-gather-start(%scatter.1), dimensions={0}
  %gather.1 = f32[1024]{0} all-gather-done(%gather-start.1)
  %large.1 = bf16[1024,1024]{1,0} all-reduce(%q), to_apply=%add
  %send.1 = (f32[256]{0}, u32[], token[]) send(%p), frontend_attributes={_name="megascale"}
  %copy.2 = f32[1024]{0} copy(%p)
  %transpose_fusion.1 = f32[4]{0} fusion(%p), kind=kLoop, calls=%fused
  ROOT %call.1 = f32[1024]{0} custom-call(%p), custom_call_target="__cublas$lt$matmul"
}
"""


def test_bytes_of_shapes():
    assert shape_bytes("(f32[8,3]{1,0:T(8,128)}, /*index=1*/bf16[2], pred[], token[])") == 96 + 4 + 1


def test_statistics_count_the_turns_of_loops():
    found = statistics(TEXT)
    assert found["collectives"] == {
        "all-reduce": [3 + 5 + 1, 8 * 4096 + 2**21],
        "reduce-scatter": [1, 4096],
        "all-gather": [1, 4096],
        BETWEEN_SLICES: [1, 1028],
    }
    assert found["uncombined_all_reduces"] == {"bf16[1024,1024]": 1}
    assert found["moves"] == {"copy": [1, 4096], "transpose": [1, 16]}
    assert found["custom_calls"] == {"__cublas$lt$matmul": 1}


def test_bytes_of_loops():
    # The all-reduce in the body and the truth value of the condition; collectives and copies outside; sums.
    body, outside, add = 4096 + 1, 2048 + 4096 + 2**21 + 1028 + 4096 + 16 + 4096, 4
    assert statistics(TEXT)["loop_factor"] == (8 * body + outside + 10 * add) / (body + outside + add)


def test_a_slice_that_is_updated_counts_and_not_the_whole_array():
    text = """
%stack (s: f32[24,100], u: f32[1,100]) -> f32[24,100] {
  %s = f32[24,100]{1,0} parameter(0)
  %u = f32[1,100]{1,0} parameter(1)
  %put.1 = f32[24,100]{1,0} dynamic-update-slice(%s, %u, %i, %z)
  ROOT %cast.1 = f32[24,100]{1,0} bitcast(%put.1)
}

%body (e: f32[24,100]) -> f32[24,100] {
  ROOT %stacked.1 = f32[24,100]{1,0} fusion(%e, %u.1), kind=kLoop, calls=%stack
}

ENTRY %main (p: f32[24,100]) -> f32[24,100] {
  %copy.1 = f32[100]{0} copy(%q)
  ROOT %while.1 = f32[24,100]{1,0} while(%p), condition=%c, body=%body, known_trip_count={"n":"24"}
}
"""
    assert statistics(text.replace("known_trip_count=", "known_trip_count:"))["loop_factor"] == 12.5


def test_without_an_entry_everything_counts_once():
    found = statistics(TEXT.replace("ENTRY ", ""))
    assert found["collectives"]["all-reduce"] == [2, 4096 + 2**21]
