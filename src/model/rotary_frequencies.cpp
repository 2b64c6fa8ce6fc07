#include "rotary_frequencies.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rora::detail {
namespace {

at::Tensor inverse_powers(double base, int64_t head_dim) {
  const at::Tensor exponent = at::arange(0, head_dim, 2, at::kLong).to(at::kFloat) / static_cast<double>(head_dim);
  return at::reciprocal(at::pow(at::Scalar(base), exponent));
}

/// Llama 3.1's: long wavelengths are stretched by the factor, short ones kept, and those between are mixed.
at::Tensor llama3_frequencies(const RopeOptions& rope, int64_t trained, const at::Tensor& frequencies) {
  const double low_wavelength = static_cast<double>(trained) / rope.low_freq_factor();
  const double high_wavelength = static_cast<double>(trained) / rope.high_freq_factor();
  const at::Tensor wavelength = 2.0 * std::numbers::pi / frequencies;
  const at::Tensor smooth = (static_cast<double>(trained) / wavelength - rope.low_freq_factor()) /
      (rope.high_freq_factor() - rope.low_freq_factor());
  const at::Tensor stretched = at::where(wavelength > low_wavelength, frequencies / rope.factor(), frequencies);
  const at::Tensor mixed = (1 - smooth) * stretched / rope.factor() + smooth * stretched;
  return at::where((wavelength >= high_wavelength) & (wavelength <= low_wavelength), mixed, stretched);
}

} // namespace

at::Tensor rotary_frequencies(const DecoderOptions& options, const RopeOptions& rope, int64_t length) {
  const int64_t head_dim = options.resolved_head_dim();
  switch (rope.scaling()) {
    case RopeScaling::kNone:
      return inverse_powers(rope.theta(), head_dim);
    case RopeScaling::kLinear:
      return inverse_powers(rope.theta(), head_dim) / rope.factor();
    case RopeScaling::kDynamic: {
      const auto trained = static_cast<double>(options.max_position_embeddings());
      const double used = std::max(static_cast<double>(length), trained);
      const double growth = rope.factor() * used / trained - (rope.factor() - 1.0);
      const auto dim = static_cast<double>(head_dim);
      return inverse_powers(rope.theta() * std::pow(growth, dim / (dim - 2.0)), head_dim);
    }
    case RopeScaling::kLlama3: {
      const int64_t original = rope.original_max_position_embeddings();
      const int64_t trained = original > 0 ? original : options.max_position_embeddings();
      return llama3_frequencies(rope, trained, inverse_powers(rope.theta(), head_dim));
    }
  }
  TORCH_INTERNAL_ASSERT(false, "unknown RopeScaling");
}

at::Tensor rotary_frequencies(const DecoderOptions& options, const RopeOptions& rope, const at::Tensor& position_ids) {
  int64_t length = 0;
  if (rope.scaling() == RopeScaling::kDynamic && position_ids.numel() > 0) {
    length = position_ids.max().item<int64_t>() + 1;
  }
  return rotary_frequencies(options, rope, length);
}

std::pair<at::Tensor, at::Tensor> rotary_tables(const at::Tensor& position_ids, const at::Tensor& frequencies) {
  const at::Tensor angles = position_ids.to(at::kFloat).unsqueeze(-1) * frequencies;
  const at::Tensor both = at::cat({angles, angles}, -1);
  return {both.cos(), both.sin()};
}

} // namespace rora::detail
