from dataclasses import replace

import pytest
import torch
from torch import nn

from rds_dagster.embeddings.encoder import load_encoder
from rds_dagster.embeddings.onednn import OneDnnLinear, through_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


class Scaled(nn.Linear):
    """Does more than multiply, so it must stay."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_linear_layers_give_the_same_numbers_to_float32_with_and_without_bias_at_any_depth():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 24), nn.Sequential(nn.SiLU(), nn.Linear(24, 16, bias=False)), Scaled(16, 8))
    x = torch.randn(3, 7, 40)
    with torch.inference_mode():
        exact = model.double()(x.double())
        fast = through_onednn(model.float())
        assert [type(part) for part in (fast[0], fast[1][1], fast[2])] == [OneDnnLinear, OneDnnLinear, Scaled]
        assert fast(x).dtype == torch.float32
        torch.testing.assert_close(fast(x).double(), exact, rtol=0, atol=1e-5)


def test_only_an_encoder_in_float32_is_changed(tiny_encoder):
    for dtype, there, gone in (("float32", OneDnnLinear, nn.Linear), ("bfloat16", nn.Linear, OneDnnLinear)):
        kinds = {type(part) for part in load_encoder(replace(tiny_encoder, dtype=dtype)).runner.backbone.model.modules()}
        assert there in kinds
        assert gone not in kinds
