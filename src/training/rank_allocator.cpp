#include <rora/training/rank_allocator.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <tuple>

namespace rora {
namespace {

/// What decides which ranks are kept, but for the numbers of steps.
auto shaping(const AdaLoraOptions& options) {
  return std::tuple(
      options.init_r(), options.target_r(), options.delta_t(), options.beta1(), options.beta2(),
      options.orth_reg_weight());
}

} // namespace

RankAllocator::RankAllocator(const AdaLoraOptions& options) : asked_(options), run_(options) {
  asked_.validate();
}

std::string RankAllocator::name() const {
  return "adalora";
}

void RankAllocator::begin(const StepContext& context) {
  TORCH_CHECK_VALUE(
      asked_.total_step() <= context.total_steps, "AdaLoRA's total_step, ", asked_.total_step(),
      ", is beyond the run's ", context.total_steps, " steps");
  run_ = asked_.for_run(context.total_steps);
  modules_.clear();
  const auto& entries = context.parameters.entries();
  std::map<const at::TensorImpl*, size_t> places;
  for (size_t i = 0; i < entries.size(); ++i) {
    places.emplace(entries[i].tensor.unsafeGetTensorImpl(), i);
  }
  std::vector<AdaLoraAdapter*> adapters;
  for (const auto& module : context.model->modules(/*include_self=*/false)) {
    auto* adapter = module->as<AdaLoraAdapter>();
    if (adapter == nullptr || !adapter->gate.requires_grad()) {
      continue;
    }
    TORCH_CHECK_VALUE(
        adapter->gate.size(0) == adapter->options.init_r(), "AdaLoRA gives out ranks of adapters that have all ",
        adapter->options.init_r(), " of them: one has ", adapter->gate.size(0));
    TORCH_CHECK_VALUE(
        shaping(adapter->options) == shaping(asked_),
        "AdaLoRA's ranks are to be given out by other options than those that the adapters were attached with");
    const auto place = [&](const at::Tensor& tensor) {
      const auto found = places.find(tensor.unsafeGetTensorImpl());
      TORCH_CHECK_VALUE(found != places.end(), "AdaLoRA trains A, E and B of its adapters: one is not trained");
      return found->second;
    };
    modules_.push_back({place(adapter->lora_A), place(adapter->gate), place(adapter->lora_B)});
    adapters.push_back(adapter);
  }
  TORCH_CHECK_VALUE(!modules_.empty(), "no adapter of AdaLoRA is trained, whose ranks could be given out");
  const at::Tensor& values = context.parameters.values();
  importance_ = at::zeros_like(values);
  uncertainty_ = at::zeros_like(values);
  mask_ = at::ones({std::ssize(modules_), run_.init_r()}, values.options());
  for (size_t i = 0; i < adapters.size(); ++i) {
    adapters[i]->options.tinit(run_.tinit()).tfinal(run_.tfinal()).total_step(run_.total_step());
    adapters[i]->mask = mask_[static_cast<int64_t>(i)];
  }
}

at::Tensor RankAllocator::extra_loss(const StepContext& context) {
  if (run_.orth_reg_weight() == 0.0) {
    return {};
  }
  const auto& entries = context.parameters.entries();
  std::vector<at::Tensor> norms;
  for (const Triplets& each : modules_) {
    const at::Tensor& a = entries[each.a].tensor;
    const at::Tensor& b = entries[each.b].tensor;
    const at::Tensor identity = at::eye(a.size(0), a.options().requires_grad(false));
    norms.push_back((a.mm(a.t()) - identity).norm());
    norms.push_back((b.t().mm(b) - identity).norm());
  }
  return run_.orth_reg_weight() * at::stack(norms).mean();
}

void RankAllocator::after_step(const StepContext& context) {
  const int64_t step = context.step + 1;
  const int64_t last = run_.total_step() - run_.tfinal().value();
  ParameterTable& table = context.parameters;
  if (step < last) {
    measure(table);
  }
  const bool chooses = step > run_.tinit().value() && (step == last || (step < last && step % run_.delta_t() == 0));
  if (chooses) {
    choose(table, run_.budget(step, std::ssize(modules_)));
  }
  if (chooses || step > last) {
    apply(table);
  }
}

void RankAllocator::measure(ParameterTable& table) {
  const at::Tensor now = (table.values() * table.gradients()).abs_();
  importance_.mul_(run_.beta1()).add_(now, 1.0 - run_.beta1());
  uncertainty_.mul_(run_.beta2()).add_(now.sub_(importance_).abs_(), 1.0 - run_.beta2());
}

/// `[modules, init_r]`.
at::Tensor RankAllocator::importance(const ParameterTable& table) const {
  const at::Tensor scores = importance_ * uncertainty_;
  const auto slice = [&](size_t entry) { return ParameterTable::slice(table.entries()[entry], scores); };
  std::vector<at::Tensor> rows;
  for (const Triplets& each : modules_) {
    rows.push_back(slice(each.e).view({-1}) + slice(each.a).mean(1).add_(slice(each.b).mean(0)));
  }
  return at::stack(rows);
}

void RankAllocator::choose(const ParameterTable& table, int64_t budget) {
  const at::Tensor order = importance(table).flatten().argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
  mask_.zero_().view({-1}).index_fill_(0, order.narrow(0, 0, budget), 1.0);
}

void RankAllocator::apply(const ParameterTable& table) const {
  for (size_t i = 0; i < modules_.size(); ++i) {
    const ParameterEntry& e = table.entries()[modules_[i].e];
    ParameterTable::slice(e, table.values()).mul_(mask_[static_cast<int64_t>(i)].unsqueeze(1));
  }
}

int64_t RankAllocator::first_best_step() const {
  return run_.total_step() - run_.tfinal().value_or(0);
}

int64_t RankAllocator::state_bytes(const ParameterTable& parameters) const {
  return 2 * static_cast<int64_t>(parameters.values().nbytes());
}

std::vector<std::pair<std::string, at::Tensor>> RankAllocator::state() const {
  return {{"importance", importance_}, {"uncertainty", uncertainty_}, {"mask", mask_}};
}

std::map<std::string, double> RankAllocator::fingerprint() const {
  constexpr int64_t kOfRun = -1; // as the run's length says, which is a run's own
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  return {
      {"init_r", number(asked_.init_r())},
      {"target_r", number(asked_.target_r())},
      {"tinit", number(asked_.tinit().value_or(kOfRun))},
      {"tfinal", number(asked_.tfinal().value_or(kOfRun))},
      {"delta_t", number(asked_.delta_t())},
      {"beta1", asked_.beta1()},
      {"beta2", asked_.beta2()},
      {"orth_reg_weight", asked_.orth_reg_weight()},
      {"total_step", number(asked_.total_step())}};
}

} // namespace rora
