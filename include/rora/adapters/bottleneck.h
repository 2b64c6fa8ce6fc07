#pragma once

#include <rora/core/adapter.h>

#include <torch/arg.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace rora {

class AdapterKind;

/// Where a bottleneck stands: LLM-Adapters' two forms.
enum class BottleneckForm {
  /// In the stream of the MLP: in front of gate_proj and up_proj, behind down_proj. Other modules have none.
  kSeries,
  /// Beside any projection.
  kParallel,
};

/// How D and U begin.
enum class BottleneckStart {
  /// Both from N(0, 0.02²), "bert": what LLM-Adapters trains. The model then begins beside the base, not at it.
  kNormal,
  /// D as `torch::nn::Linear` begins and U = 0, "mam_adapter": the model begins as the base.
  kIdentity,
};

/// The options of bottleneck adapters, the Series and Parallel adapters that RoRA (arXiv 2501.04315) is compared with:
/// \code
/// rora::attach_adapters(
///     *model, rora::AdapterOptions()
///                 .kind(rora::bottleneck(rora::BottleneckOptions().form(rora::BottleneckForm::kParallel)))
///                 .target_modules(std::vector<std::string>{"up_proj", "down_proj"}));
/// \endcode
struct BottleneckOptions {
  /// Where it stands.
  TORCH_ARG(BottleneckForm, form) = BottleneckForm::kSeries;
  /// Rows of D and columns of U.
  TORCH_ARG(int64_t, width) = 256;
  /// What U's output is multiplied by.
  TORCH_ARG(double, scaling) = 1.0;
  /// The probability of dropping an element of D's input while training.
  TORCH_ARG(double, dropout) = 0.0;
  /// How D and U begin.
  TORCH_ARG(BottleneckStart, start) = BottleneckStart::kNormal;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// What a bottleneck reads and adds to.
enum class BottleneckPlace {
  kInput, ///< y = W·(x + f(x)) + bias: in series, in front of the projection
  kOutput, ///< y = z + f(z), z = W·x + bias: in series, behind it
  kBeside, ///< y = W·x + bias + f(x): parallel
};

/// f(u) = scaling·U·tanh(D·dropout(u)) (Houlsby et al., arXiv 1902.00751, and He et al., arXiv 2110.04366, in
/// LLM-Adapters' form, arXiv 2304.01933: without biases).
///
/// D `[width, in]` and U `[out, width]` in fp32 (fp64 beside an fp64 base), `in` and `out` the sizes of what f reads
/// and adds to; f is computed in that dtype and rounded once to that of x. No weight does the same: it is never merged.
class BottleneckAdapter : public Adapter {
 public:
  /// An adapter of `projection`, on its device. Throws for options out of range.
  BottleneckAdapter(const ProjectionImpl& projection, const BottleneckOptions& options, BottleneckPlace place);

  at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x) override;

  /// Whether U is zero no longer.
  bool changes_output() const override;

  /// Nothing is decided on the host, but for dropout's seeds.
  std::optional<std::string> why_not_captured() const override;

  AdapterMemory memory(const ProjectionImpl& projection, bool output_kept) const override;

  std::shared_ptr<Adapter> empty_copy() const override;

  void pretty_print(std::ostream& stream) const override;

  const BottleneckOptions options;
  const BottleneckPlace place;
  at::Tensor adapter_down; ///< D
  at::Tensor adapter_up; ///< U

 private:
  /// Tensors without values.
  BottleneckAdapter(
      const BottleneckOptions& options, BottleneckPlace place, int64_t in, int64_t out, const at::TensorOptions& like);

  at::Tensor bottleneck(const at::Tensor& u) const;
};

/// The kind of these adapters, for `AdapterOptions::kind`. Folders are those of LLM-Adapters' fork of PEFT, peft_type
/// BOTTLENECK; PEFT itself has no such kind. Throws `c10::ValueError` for options out of range.
std::shared_ptr<const AdapterKind> bottleneck(const BottleneckOptions& options = {});

} // namespace rora
