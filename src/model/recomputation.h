#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace rora::detail {

/// `run(x)`, whose activations are not kept: backward runs it again, with the same random numbers, and differentiates
/// that.
at::Tensor recomputed(const std::function<at::Tensor(const at::Tensor&)>& run, const at::Tensor& x);

/// Frees the memory of `y`, which nodes keep for the backward of `outputs`, until the first gradient of one of these
/// arrives: `form()` then gives the same values once more. So what is cheap to form is kept by no layer but the one
/// whose backward runs (Korthikanti et al., arXiv 2205.05198, section 5). Nothing happens where nobody keeps y.
///
/// `y` is the caller's last reference; whoever else has one must not read it before that gradient. `form` holds what y
/// was formed from without its graph.
void form_again(at::Tensor y, std::function<at::Tensor()> form, const std::vector<at::Tensor>& outputs);

} // namespace rora::detail
