#pragma once

#include <kernels/host/blocks.h>
#include <kernels/parameters.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace rora::testing {

inline kernels::Type kernel_type(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? kernels::Type::kBFloat16 : kernels::Type::kFloat;
}

inline kernels::Rows rows_of(const at::Tensor& x) {
  return {x.data_ptr(), x.stride(0)};
}

/// Runs `kernel` on the host and expects the same bits in `written` whatever the order of its threads.
template <class Kernel>
void run_kernel(const Kernel& kernel, const std::vector<at::Tensor>& written) {
  namespace host = kernels::cuda::host;
  std::vector<at::Tensor> before, first;
  for (const at::Tensor& each : written) {
    before.push_back(each.clone());
  }
  for (const auto order : {host::Order::kAscending, host::Order::kDescending, host::Order::kShuffled}) {
    for (size_t i = 0; i < written.size(); ++i) {
      written[i].copy_(before[i]);
    }
    host::run(kernel, order);
    for (size_t i = 0; i < written.size(); ++i) {
      if (order == host::Order::kAscending) {
        first.push_back(written[i].clone());
      } else {
        const at::Tensor same = (written[i] == first[i]).logical_or(written[i].isnan().logical_and(first[i].isnan()));
        EXPECT_TRUE(same.all().item<bool>())
            << "output " << i << " depends on the order of the threads: a barrier lacks";
      }
    }
  }
}

/// The largest difference, of the largest element.
inline double error(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor difference = (found.to(at::kDouble) - expected.to(at::kDouble)).abs();
  return (difference.max() / expected.to(at::kDouble).abs().max().clamp_min(1e-30)).item<double>();
}

/// Of a result that is rounded once.
inline double tolerance(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? 1.0 / 256 : 2e-6;
}

} // namespace rora::testing
