#pragma once

namespace rora::ops {

/// Which input of a DoRA layer dropout falls on; without dropout the two are one.
enum class DoraDropout {
  kInput, ///< PEFT: W·x + (n−1)⊙W·drop(x) + n⊙s·B·A·drop(x), which takes a second frozen product
  kLowRank, ///< torchtune: n⊙(W·x + s·B·A·drop(x))
};

} // namespace rora::ops
