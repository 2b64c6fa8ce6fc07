#pragma once

#include <rora/core/adapter.h>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// Parameters that an optimiser treats alike.
struct ParameterGroup {
  double lr_factor = 1.0; ///< of the step's learning rate
  std::optional<double> weight_decay; ///< instead of the optimiser's own
  bool operator==(const ParameterGroup&) const = default;
};

/// A trained tensor: what it is, and where it lies in the flat buffers.
struct ParameterEntry {
  std::string name; ///< its path in the model
  at::Tensor tensor;
  ParameterRole role = ParameterRole::kOther;
  std::optional<size_t> pair{}; ///< of `ParameterTable::pairs`, for a factor of one
  int64_t begin = 0; ///< of `values` and `gradients`
  int64_t size = 0;
  size_t group = 0; ///< of `ParameterTable::groups`
  /// Where a node may write the tensor's gradient at once, from the second pass on; null on a GPU.
  std::shared_ptr<ops::GradientBuffer> gradient_buffer{};
};

/// Two entries of one table that are the factors of ΔW = scale·B·A.
struct ParameterPair {
  size_t a = 0;
  size_t b = 0;
  double scale = 1.0;
};

/// An entry that is one factor of ΔW = scale·B·A, as its role says, beside another that is frozen.
struct HalfPair {
  size_t trained = 0;
  at::Tensor frozen;
  double scale = 1.0;
};

/// Entries that lie together and are updated alike: [begin, begin + size) of the flat buffers.
struct ParameterRange {
  ParameterGroup group;
  int64_t begin = 0;
  int64_t size = 0;
};

/// The group of a parameter, from its name, tensor and role.
using GroupOf = std::function<ParameterGroup(const ParameterEntry&)>;

/// What is trained: each tensor by name, with its role, its pair and its group. The tensors stand side by side in one
/// buffer, and their gradients in another: one optimiser update a group, one norm and, over several machines, one
/// reduction for all of them.
///
/// Groups follow each other in the order in which they first appear. Within one, matrices come behind all other
/// tensors, those of shorter rows first; among equals the order is that of the list. So the A that one product takes,
/// those of q, k and v, are the rows of one matrix in the buffer, which that product reads where it lies.
class ParameterTable {
 public:
  /// The parameters of `model` that require gradients. Adapters say what their parameters are (`Adapter::role`,
  /// `pairs`) and are given their gradients' buffers while the table lives. Each tensor is a view of the flat buffer
  /// from then on. Throws `c10::ValueError` for none, and for tensors of unlike dtype or device.
  explicit ParameterTable(const torch::nn::Module& model, const GroupOf& group_of = nullptr);

  /// Tensors of no model, without roles. Throws also for one that is listed twice.
  explicit ParameterTable(
      const std::vector<std::pair<std::string, at::Tensor>>& parameters, const GroupOf& group_of = nullptr);

  ~ParameterTable();
  ParameterTable(const ParameterTable&) = delete;
  ParameterTable& operator=(const ParameterTable&) = delete;

  /// In the order of the buffers.
  const std::vector<ParameterEntry>& entries() const {
    return entries_;
  }
  /// Factors that are both trained.
  const std::vector<ParameterPair>& pairs() const {
    return pairs_;
  }
  /// Factors that are trained while their others are not.
  const std::vector<HalfPair>& half_pairs() const {
    return half_pairs_;
  }
  const std::vector<ParameterRange>& groups() const {
    return groups_;
  }

  const at::Tensor& values() const {
    return values_;
  }
  /// The gradients of all, zeros for a tensor that has none, brought together by this call: it is called anew after
  /// each backward. Each tensor's `grad()` is a view of them from then on, to which backward adds.
  const at::Tensor& gradients();

  /// The entry's part of a tensor that is laid out like `values`, in the entry's shape.
  static at::Tensor slice(const ParameterEntry& entry, const at::Tensor& flat) {
    return flat.narrow(0, entry.begin, entry.size).view(entry.tensor.sizes());
  }

  /// Fills the gradients with zeros. On a CPU those that their nodes write in place (an adapter's A and B, from the
  /// second pass on: `ops::GradientBuffer`) need none: such a tensor has no `grad()` until the next backward.
  void zero_grad();

  /// Says that the values have changed: what is derived from the tensors (DoRA's norm) is then made anew.
  void mark_changed();

  /// ‖gradients‖₂ before clipping; where it is over `max_norm` (0 is off) the gradients are scaled by
  /// max_norm/(norm + 1e-6), as `torch.nn.utils.clip_grad_norm_` does. The norm is a scalar of the gradients' dtype and
  /// device: nothing waits for a GPU.
  at::Tensor clip_gradients(double max_norm);

 private:
  void check() const;
  void find_adapters(const torch::nn::Module& model);
  void find_groups(const GroupOf& group_of);
  void lay_out();
  void connect_adapters();
  std::map<const at::TensorImpl*, size_t> places() const;

  std::vector<ParameterEntry> entries_;
  std::vector<ParameterPair> pairs_;
  std::vector<HalfPair> half_pairs_;
  std::vector<ParameterRange> groups_;
  /// Those with a trained parameter; they may go before the table.
  std::vector<std::weak_ptr<torch::nn::Module>> adapters_;
  std::vector<at::Tensor> gradient_views_; ///< of the buffer, one of each entry
  at::Tensor values_;
  at::Tensor gradients_;
};

/// LoRA+ (arXiv 2402.12354): B and all one-dimensional tensors, DoRA's magnitude among them, learn `ratio_b` times as
/// fast, and biases are not decayed: the groups of PEFT's `create_loraplus_optimizer`.
GroupOf lora_plus(double ratio_b);

} // namespace rora
