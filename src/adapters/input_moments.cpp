#include "input_moments.h"

#include <rora/core/projection.h>
#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <memory>
#include <utility>

namespace rora::detail {
namespace {

/// No adapter of a user's has this name.
constexpr const char* kObserver = "__input_moments__";

/// Sums over tokens.
struct Sums {
  at::Tensor x; ///< `[in]` in fp64 on the CPU
  at::Tensor xx; ///< `[in, in]`
  int64_t tokens = 0;
  bool divided = false;

  /// Makes them means, once.
  void divide() {
    if (!divided) {
      x.div_(static_cast<double>(tokens));
      xx.div_(static_cast<double>(tokens));
      divided = true;
    }
  }

  void add(const at::Tensor& rows) {
    const at::Tensor wide = rows.to(at::kDouble);
    const at::Tensor sum = wide.sum(0).cpu();
    const at::Tensor products = wide.t().mm(wide).cpu();
    x = x.defined() ? x.add_(sum) : sum;
    xx = xx.defined() ? xx.add_(products) : products;
    tokens += rows.size(0);
  }
};

/// What the observers of one capture share.
struct Capture {
  at::Tensor labelled; ///< bool `[batch·seq]` of the batch that runs
  at::Tensor last; ///< the input that was seen last: kept, so that no other one has its memory
  std::shared_ptr<Sums> sums_of_last;
  std::map<std::string, std::shared_ptr<Sums>> sums;

  void see(const std::string& module, const at::Tensor& x) {
    std::shared_ptr<Sums>& own = sums[module];
    if (last.defined() && last.is_same(x)) {
      own = sums_of_last;
      return;
    }
    if (!own) {
      own = std::make_shared<Sums>();
    }
    const at::Tensor rows = x.reshape({-1, x.size(-1)});
    TORCH_CHECK_VALUE(
        rows.size(0) == labelled.size(0), module, ": reads ", rows.size(0), " rows of ", labelled.size(0),
        " tokens: it is not known which of them are labelled");
    const at::Tensor chosen = rows.index({labelled.to(rows.device())});
    TORCH_CHECK_VALUE(chosen.isfinite().all().item<bool>(), module, ": its input is not finite");
    own->add(chosen);
    last = x;
    sums_of_last = own;
  }
};

/// An adapter that changes nothing and looks at what the projection reads.
class Observer : public Adapter {
 public:
  Observer(std::string module, std::shared_ptr<Capture> capture)
      : module_(std::move(module)), capture_(std::move(capture)) {}

  at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x) override {
    capture_->see(module_, x);
    return projection.forward_frozen(x);
  }

 private:
  std::string module_;
  std::shared_ptr<Capture> capture_;
};

/// Observes projections while it lives; afterwards their slots are as before.
class Observation {
 public:
  Observation(
      torch::nn::Module& model, const std::vector<std::string>& modules, const std::shared_ptr<Capture>& capture) {
    const auto all = model.named_modules("", /*include_self=*/false);
    for (const std::string& module : modules) {
      auto projection = std::dynamic_pointer_cast<ProjectionImpl>(all[module]);
      TORCH_CHECK_VALUE(projection != nullptr, "'", module, "' is no projection of the model");
      observed_.emplace_back(projection, projection->active_name());
      projection->attach(kObserver, std::make_shared<Observer>(module, capture));
    }
  }
  ~Observation() {
    for (const auto& [projection, active] : observed_) {
      projection->detach(kObserver);
      projection->activate(active);
    }
  }
  Observation(const Observation&) = delete;
  Observation& operator=(const Observation&) = delete;

 private:
  std::vector<std::pair<std::shared_ptr<ProjectionImpl>, std::string>> observed_;
};

bool is_head(const std::string& module) {
  return module == "lm_head" || module.ends_with(".lm_head");
}

} // namespace

StatisticsByModule capture_input_moments(
    CausalLM model, const std::vector<std::string>& modules, int64_t batches,
    const std::function<CaptureBatch(int64_t batch)>& batch) {
  at::NoGradGuard no_grad;
  auto capture = std::make_shared<Capture>();
  bool with_head = false;
  for (const std::string& module : modules) {
    with_head = with_head || is_head(module);
  }
  {
    const Observation observation(*model, modules, capture);
    for (int64_t i = 0; i < batches; ++i) {
      const CaptureBatch rows = batch(i);
      capture->labelled = rows.labels.flatten().ne(kIgnoreIndex);
      if (with_head) {
        model->forward(rows.input);
      } else {
        model->hidden_states(rows.input);
      }
      capture->last.reset();
    }
  }
  StatisticsByModule statistics;
  for (const std::string& module : modules) {
    Sums& sums = *capture->sums.at(module);
    TORCH_CHECK_VALUE(sums.tokens > 0, "no token of the ", batches, " batches that are captured is labelled");
    sums.divide();
    WeightStatistics& own = statistics[module]; // of one input all modules have the same tensors
    own.input_mean = sums.x;
    own.input_moment = sums.xx;
  }
  return statistics;
}

} // namespace rora::detail
