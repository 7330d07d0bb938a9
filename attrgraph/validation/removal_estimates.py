"""What taking features out would do to the answer, estimated from one gradient: attribution patching.

    estimate of a feature = - activation * (own-layer decoder row . gradient of the answer at the MLP's output)

everything live, at the unchanged run, with 0 in the feature's place. It needs no graph, so that it is what a graph's
ranking of features has to be compared with.

Source: Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery", arxiv.org/abs/2310.10348
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.models.frozen import widened
from attrgraph.models.hooks import on_output
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.transcoders.transcoders import FeatureKey


def removal_estimates(
    model: LanguageModel, local: LocalReplacement, token: int, features: list[FeatureKey]
) -> Float[np.ndarray, " n_features"]:
    """For each active feature (layer, feature, position): the change of the token's logit about the vocabulary's mean.

    The logit is that before soft-capping, at the last position.
    """
    gradients, found = _gradients(model, local, token), np.zeros(len(features))
    activation = local.active.at(features)
    for layer in {key[0] for key in features}:
        at = [i for i, key in enumerate(features) if key[0] == layer]
        numbers, positions = (torch.tensor([features[i][part] for i in at]) for part in (1, 2))
        rows = torch.empty(len(at), model.d_model, dtype=gradients.dtype, device=gradients.device)
        local.transcoders.decoder_rows(layer, layer, numbers, out=rows)
        products = (rows.double() * gradients[layer, positions.to(rows.device)]).sum(1)
        found[at] = -np.asarray([activation[i] for i in at]) * products.cpu().numpy()
    return found


def _gradients(model: LanguageModel, local: LocalReplacement, token: int) -> Float[Tensor, "n_layers n_pos d_model"]:
    """Of the token's logit with respect to what each MLP writes, at the point where features write."""
    outs, normed = list[Tensor](), list[Tensor]()

    def keep(_: int, __: Tensor, out: Tensor) -> Tensor:
        outs.append(out + torch.zeros_like(out).requires_grad_())
        return outs[-1]

    with (
        torch.enable_grad(),
        replaced_mlps(model, keep, point=local.transcoders.config.feature_output_hook),
        on_output([model.final_norm_module()], lambda _, out: normed.append(out)),
    ):
        model.run_body(local.run.token_ids[None])
        W_U = local.run.W_U
        answer = widened(normed[0][0, -1]) @ (W_U[token] - W_U.mean(0))
        found = torch.autograd.grad(answer, outs, allow_unused=True)
    return torch.stack([torch.zeros_like(out[0]) if g is None else g[0] for g, out in zip(found, outs, strict=True)])
