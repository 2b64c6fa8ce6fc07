#include <rora/adapters/gradient_capture.h>

#include <rora/core/projection.h>

#include <c10/util/Exception.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <set>

namespace rora {
namespace {

/// Adds a parameter's gradient to a sum in fp32 on the CPU as soon as backward has made it, and frees it.
class TakeGradient : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit TakeGradient(std::shared_ptr<at::Tensor> sum) : sum_(std::move(sum)) {}

  void operator()(const at::Tensor& parameter) override {
    at::NoGradGuard no_grad;
    const at::Tensor gradient = parameter.grad().to(at::kCPU, at::kFloat);
    parameter.mutable_grad().reset();
    if (sum_->defined()) {
      sum_->add_(gradient);
    } else {
      *sum_ = gradient.contiguous();
    }
  }

 private:
  std::shared_ptr<at::Tensor> sum_;
};

/// Lets the chosen parameters of a model alone require gradients while it lives, each of which goes to a sum of its
/// own.
class Capture {
 public:
  Capture(torch::nn::Module& model, const std::set<at::TensorImpl*>& chosen) {
    std::set<at::TensorImpl*> seen;
    for (const at::Tensor& parameter : model.parameters()) {
      if (!seen.insert(parameter.unsafeGetTensorImpl()).second) {
        continue; // tied to one before
      }
      kept_.push_back({parameter, parameter.requires_grad(), parameter.grad(), nullptr});
      Kept& kept = kept_.back();
      kept.parameter.set_requires_grad(false);
      if (chosen.count(parameter.unsafeGetTensorImpl())) {
        kept.parameter.set_requires_grad(true);
        kept.parameter.mutable_grad().reset();
        kept.hook = std::move(torch::autograd::impl::post_acc_grad_hooks(kept.parameter));
        auto& sum = sums_[parameter.unsafeGetTensorImpl()] = std::make_shared<at::Tensor>();
        torch::autograd::impl::set_post_acc_grad_hooks(kept.parameter, std::make_unique<TakeGradient>(sum));
      }
    }
  }

  ~Capture() {
    for (Kept& kept : kept_) {
      if (sums_.count(kept.parameter.unsafeGetTensorImpl())) {
        torch::autograd::impl::set_post_acc_grad_hooks(kept.parameter, std::move(kept.hook));
      }
      kept.parameter.set_requires_grad(kept.required_grad);
      kept.parameter.mutable_grad() = kept.gradient;
    }
  }

  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  /// The sum so far; undefined where there was no gradient.
  const at::Tensor& sum(const at::Tensor& parameter) const {
    return *sums_.at(parameter.unsafeGetTensorImpl());
  }

 private:
  struct Kept {
    at::Tensor parameter;
    bool required_grad;
    at::Tensor gradient;
    std::unique_ptr<torch::autograd::PostAccumulateGradHook> hook;
  };

  std::vector<Kept> kept_;
  std::map<at::TensorImpl*, std::shared_ptr<at::Tensor>> sums_;
};

ProjectionImpl& projection_of(torch::nn::Module& model, const std::string& module) {
  const auto modules = model.named_modules("", /*include_self=*/false);
  const auto* found = modules.find(module);
  auto* projection = found == nullptr ? nullptr : (*found)->as<ProjectionImpl>();
  TORCH_CHECK_VALUE(projection != nullptr, "'", module, "' is no projection of the model");
  TORCH_CHECK_VALUE(
      !projection->merged(), module, ": unmerge its adapter before the gradient of its weight is captured");
  TORCH_CHECK_VALUE(projection->weight.defined(), module, ": only a dense weight has a gradient");
  return *projection;
}

} // namespace

std::map<std::string, WeightStatistics> capture_gradients(
    torch::nn::Module& model, const std::vector<std::string>& modules, int64_t batches,
    const std::function<void(int64_t batch)>& run, const EnoughBatches& enough) {
  TORCH_CHECK_VALUE(batches >= 1, "gradients are captured over at least 1 batch, not ", batches);
  std::map<std::string, at::Tensor> weights;
  std::set<at::TensorImpl*> chosen;
  for (const std::string& module : modules) {
    weights[module] = projection_of(model, module).weight;
    chosen.insert(weights[module].unsafeGetTensorImpl());
  }
  std::map<std::string, WeightStatistics> statistics;
  Capture capture(model, chosen);
  std::map<std::string, at::Tensor> sums;
  int64_t done = 0;
  for (bool ends = false; !ends;) {
    run(done++);
    for (const auto& [module, weight] : weights) {
      sums[module] = capture.sum(weight);
    }
    ends = done == batches || (enough && enough(done, sums));
  }
  for (auto& [module, sum] : sums) {
    TORCH_CHECK_VALUE(sum.defined(), module, ": no batch gave its weight a gradient");
    statistics[module].gradient = sum.div_(static_cast<double>(done));
  }
  return statistics;
}

} // namespace rora
