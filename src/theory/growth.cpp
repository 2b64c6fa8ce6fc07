#include <rora/theory/growth.h>

#include <rora/adapters/gradient_capture.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <memory>
#include <utility>

namespace rora::theory {
namespace {

ProjectionImpl& projection_of(const torch::nn::Module& model, const std::string& module) {
  const auto modules = model.named_modules("", /*include_self=*/false);
  const auto* found = modules.find(module);
  auto* projection = found == nullptr ? nullptr : (*found)->as<ProjectionImpl>();
  TORCH_CHECK_VALUE(projection != nullptr, "'", module, "' is no projection of the model");
  return *projection;
}

/// Keeps what enters its projection, which stays as it is.
class InputRecorder : public Adapter {
 public:
  at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x) override {
    input = x;
    return projection.forward_frozen(x);
  }
  bool changes_output() const override {
    return false;
  }

  at::Tensor input;
};

/// Recorders in the slots of projections while it lives.
class Recording {
 public:
  Recording(const torch::nn::Module& model, const std::vector<std::string>& modules) {
    for (const std::string& module : modules) {
      TORCH_CHECK_VALUE(
          projection_of(model, module).active_adapter() == nullptr, module,
          ": inputs are captured while no adapter is active");
    }
    for (const std::string& module : modules) {
      ProjectionImpl& projection = projection_of(model, module);
      auto recorder = std::make_shared<InputRecorder>();
      projection.attach(kName, recorder);
      recorders.emplace_back(&projection, std::move(recorder));
    }
  }
  ~Recording() {
    for (const auto& [projection, recorder] : recorders) {
      projection->detach(kName);
    }
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  std::vector<std::pair<ProjectionImpl*, std::shared_ptr<InputRecorder>>> recorders;

 private:
  static constexpr const char* kName = "input_recorder";
};

/// The trace of BᵀB·AAᵀ over all pairs: Σ of their inner products where there are several.
double weight_norm(const std::vector<LowRankPair>& pairs) {
  double square = 0.0;
  for (const LowRankPair& left : pairs) {
    for (const LowRankPair& right : pairs) {
      const at::Tensor b = left.b.detach().t().mm(right.b.detach()).to(at::kDouble);
      const at::Tensor a = left.a.detach().mm(right.a.detach().t()).to(at::kDouble);
      square += left.scale * right.scale * (a * b).sum().item<double>();
    }
  }
  return std::sqrt(std::max(square, 0.0));
}

double output_norm(const std::vector<LowRankPair>& pairs, const at::Tensor& inputs) {
  at::Tensor change;
  for (const LowRankPair& pair : pairs) {
    const at::Tensor part = pair.scale * inputs.mm(pair.a.detach().t()).mm(pair.b.detach().t());
    change = change.defined() ? change + part : part;
  }
  return std::sqrt(change.square().sum(at::kDouble).item<double>() / static_cast<double>(inputs.size(0)));
}

} // namespace

ProjectionInputs capture_inputs(CausalLM model, const std::vector<std::string>& modules, const ModelInput& input) {
  at::NoGradGuard no_grad;
  const Recording recording(*model, modules);
  model->hidden_states(input);
  at::Tensor tokens; // all, where undefined
  if (input.attention_mask.defined()) {
    tokens = input.attention_mask.flatten().nonzero().squeeze(1).to(model->device());
  }
  ProjectionInputs inputs;
  std::map<const at::TensorImpl*, at::Tensor> shared;
  for (size_t i = 0; i < modules.size(); ++i) {
    const at::Tensor& x = recording.recorders[i].second->input;
    TORCH_CHECK_VALUE(x.defined(), modules[i], ": nothing enters it on the way to the hidden states");
    at::Tensor& kept = shared[x.unsafeGetTensorImpl()];
    if (!kept.defined()) {
      kept = x.reshape({-1, x.size(-1)}).to(at::kFloat);
      kept = tokens.defined() ? kept.index_select(0, tokens) : kept.clone();
    }
    inputs[modules[i]] = kept;
  }
  return inputs;
}

std::vector<ProjectionGrowth> measure_growth(const torch::nn::Module& model, const ProjectionInputs& inputs) {
  at::NoGradGuard no_grad;
  std::vector<ProjectionGrowth> all;
  for (const auto& [module, tokens] : inputs) {
    const Adapter* adapter = projection_of(model, module).active_adapter();
    const std::vector<LowRankPair> pairs = adapter == nullptr ? std::vector<LowRankPair>() : adapter->pairs();
    TORCH_CHECK_VALUE(!pairs.empty(), module, " has no adapter of a low-rank pair");
    all.push_back({module, weight_norm(pairs), output_norm(pairs, tokens)});
  }
  return all;
}

GrowthHook::GrowthHook(ProjectionInputs inputs, std::set<int64_t> steps)
    : inputs_(std::move(inputs)), steps_(std::move(steps)) {}

void GrowthHook::after_step(const StepContext& context) {
  const int64_t step = context.step + 1;
  if (steps_.count(step) > 0) {
    measured_[step] = measure_growth(*context.model, inputs_);
  }
}

std::map<std::string, at::Tensor> loss_gradients(
    CausalLM model, const std::vector<std::string>& modules, const ModelInput& input, const at::Tensor& labels) {
  const auto statistics = capture_gradients(*model, modules, 1, [&](int64_t /*batch*/) {
    const LossSum loss = model->loss(input, labels);
    (loss.sum / static_cast<double>(loss.tokens)).backward();
  });
  std::map<std::string, at::Tensor> gradients;
  for (const auto& [module, each] : statistics) {
    gradients[module] = each.gradient;
  }
  return gradients;
}

} // namespace rora::theory
