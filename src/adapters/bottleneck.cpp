#include <rora/adapters/bottleneck.h>

#include "kinds/bottleneck.h"

#include <rora/core/dropout.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/nn/init.h>

#include <cmath>
#include <ostream>

namespace rora {
namespace {

constexpr double kNormalDeviation = 0.02;

int64_t input_size(const ProjectionImpl& projection, BottleneckPlace place) {
  return place == BottleneckPlace::kOutput ? projection.out_features() : projection.in_features();
}

int64_t output_size(const ProjectionImpl& projection, BottleneckPlace place) {
  return place == BottleneckPlace::kInput ? projection.in_features() : projection.out_features();
}

} // namespace

void BottleneckOptions::validate() const {
  TORCH_CHECK_VALUE(width_ >= 1, "a bottleneck's width must be at least 1: ", width_);
  TORCH_CHECK_VALUE(std::isfinite(scaling_), "a bottleneck's scaling must be finite: ", scaling_);
  TORCH_CHECK_VALUE(dropout_ >= 0.0 && dropout_ < 1.0, "dropout must be in [0, 1): ", dropout_);
}

BottleneckAdapter::BottleneckAdapter(
    const ProjectionImpl& projection, const BottleneckOptions& options, BottleneckPlace place)
    : BottleneckAdapter(
          options, place, input_size(projection, place), output_size(projection, place),
          at::TensorOptions().dtype(wide(projection.base().dtype())).device(projection.base().device())) {
  at::NoGradGuard no_grad;
  if (options.start() == BottleneckStart::kNormal) {
    adapter_down.normal_(0.0, kNormalDeviation);
    adapter_up.normal_(0.0, kNormalDeviation);
  } else {
    torch::nn::init::kaiming_uniform_(adapter_down, std::sqrt(5.0));
    adapter_up.zero_();
  }
}

BottleneckAdapter::BottleneckAdapter(
    const BottleneckOptions& options, BottleneckPlace place, int64_t in, int64_t out, const at::TensorOptions& like)
    : options(options), place(place) {
  options.validate();
  adapter_down = register_parameter("adapter_down", at::empty({options.width(), in}, like));
  adapter_up = register_parameter("adapter_up", at::empty({out, options.width()}, like));
}

at::Tensor BottleneckAdapter::bottleneck(const at::Tensor& u) const {
  at::Tensor input = u.to(adapter_down.scalar_type());
  if (is_training() && options.dropout() > 0.0) {
    input = ops::Dropout{options.dropout(), ops::draw_seed()}.apply(input);
  }
  const at::Tensor added = at::linear(at::linear(input, adapter_down).tanh(), adapter_up);
  return (options.scaling() == 1.0 ? added : added * options.scaling()).to(u.scalar_type());
}

at::Tensor BottleneckAdapter::forward(const ProjectionImpl& projection, const at::Tensor& x) {
  switch (place) {
    case BottleneckPlace::kInput:
      return projection.forward_frozen(x + bottleneck(x));
    case BottleneckPlace::kOutput: {
      const at::Tensor output = projection.forward_frozen(x);
      return output + bottleneck(output);
    }
    case BottleneckPlace::kBeside:
      break;
  }
  return projection.forward_frozen(x) + bottleneck(x);
}

bool BottleneckAdapter::changes_output() const {
  return adapter_up.any().item<bool>();
}

std::optional<std::string> BottleneckAdapter::why_not_captured() const {
  return options.dropout() > 0.0 ? std::optional<std::string>("dropout draws new seeds on the host for each batch")
                                 : std::nullopt;
}

AdapterMemory BottleneckAdapter::memory(const ProjectionImpl& projection, bool output_kept) const {
  const auto base = static_cast<int64_t>(c10::elementSize(projection.base().dtype()));
  const auto own = static_cast<int64_t>(adapter_down.element_size());
  const int64_t read = input_size(projection, place);
  const bool drops = options.dropout() > 0.0;
  AdapterMemory memory;
  memory.input = false;
  memory.hidden = options.width() * own / base; // tanh's result
  if (drops || own != base) { // D's input is a tensor of its own; of dropout the mask too
    memory.hidden += (drops ? 2 : 1) * read * own / base;
  } else if (place == BottleneckPlace::kOutput) {
    memory.outputs = output_kept ? 0 : read;
  } else {
    memory.input = true;
  }
  return memory;
}

std::shared_ptr<Adapter> BottleneckAdapter::empty_copy() const {
  return std::shared_ptr<Adapter>(new BottleneckAdapter(
      options, place, adapter_down.size(1), adapter_up.size(0), adapter_down.options().requires_grad(false)));
}

void BottleneckAdapter::pretty_print(std::ostream& stream) const {
  stream << "rora::BottleneckAdapter(width=" << options.width() << ", scaling=" << options.scaling() << ", place="
         << (place == BottleneckPlace::kInput        ? "input"
                 : place == BottleneckPlace::kOutput ? "output"
                                                     : "beside")
         << ", dropout=" << options.dropout() << ")";
}

std::shared_ptr<const AdapterKind> bottleneck(const BottleneckOptions& options) {
  return std::make_shared<detail::BottleneckKind>(options);
}

} // namespace rora
