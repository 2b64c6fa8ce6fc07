#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace rora::testing {

/// The largest difference between autograd's gradient of Σ(f ⊙ w), w fixed and random, and the central difference, over
/// all elements of the double `inputs`, as a share of the largest gradient: about 1e-8 for a right backward.
double gradient_error(
    const std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>& function,
    std::vector<at::Tensor> inputs);

/// max|a − b| / max|b|. Throws for tensors of unlike shapes.
double relative_error(const at::Tensor& a, const at::Tensor& b);

} // namespace rora::testing
