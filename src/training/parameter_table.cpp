#include <rora/training/parameter_table.h>

#include <rora/core/gradient_buffer.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace rora {
namespace {

int64_t row_length(const at::Tensor& x) {
  return x.dim() == 2 ? x.size(1) : 0;
}

std::shared_ptr<Adapter> as_adapter(const std::shared_ptr<torch::nn::Module>& module) {
  return std::dynamic_pointer_cast<Adapter>(module);
}

} // namespace

ParameterTable::ParameterTable(const torch::nn::Module& model, const GroupOf& group_of) {
  for (const auto& item : model.named_parameters()) {
    if (item.value().requires_grad()) {
      entries_.push_back({item.key(), item.value()});
    }
  }
  check();
  find_adapters(model);
  find_groups(group_of);
  lay_out();
  connect_adapters();
}

ParameterTable::ParameterTable(
    const std::vector<std::pair<std::string, at::Tensor>>& parameters, const GroupOf& group_of) {
  for (const auto& [name, tensor] : parameters) {
    entries_.push_back({name, tensor});
  }
  check();
  find_groups(group_of);
  lay_out();
}

ParameterTable::~ParameterTable() {
  for (const auto& each : adapters_) {
    if (const auto adapter = as_adapter(each.lock())) {
      for (const auto& item : adapter->named_parameters()) {
        adapter->set_gradient_buffer(item.key(), nullptr);
      }
    }
  }
}

std::map<const at::TensorImpl*, size_t> ParameterTable::places() const {
  std::map<const at::TensorImpl*, size_t> places;
  for (size_t i = 0; i < entries_.size(); ++i) {
    places.emplace(entries_[i].tensor.unsafeGetTensorImpl(), i);
  }
  return places;
}

void ParameterTable::check() const {
  TORCH_CHECK_VALUE(!entries_.empty(), "there is no parameter to train");
  TORCH_CHECK_VALUE(places().size() == entries_.size(), "a parameter to train is listed twice");
  const at::Tensor& first = entries_[0].tensor;
  for (const ParameterEntry& each : entries_) {
    TORCH_CHECK_VALUE(
        each.tensor.scalar_type() == first.scalar_type() && each.tensor.device() == first.device(),
        "the parameters to train must be of one dtype and on one device");
  }
}

void ParameterTable::find_adapters(const torch::nn::Module& model) {
  const auto places = this->places();
  for (const auto& module : model.modules(/*include_self=*/false)) {
    const auto adapter = as_adapter(module);
    if (adapter == nullptr) {
      continue;
    }
    bool trained = false;
    for (const auto& item : adapter->named_parameters()) {
      if (const auto place = places.find(item.value().unsafeGetTensorImpl()); place != places.end()) {
        entries_[place->second].role = adapter->role(item.key());
        trained = true;
      }
    }
    if (trained) {
      adapters_.push_back(module);
    }
  }
}

void ParameterTable::find_groups(const GroupOf& group_of) {
  for (ParameterEntry& entry : entries_) {
    const ParameterGroup group = group_of ? group_of(entry) : ParameterGroup();
    TORCH_CHECK_VALUE(
        std::isfinite(group.lr_factor) && group.lr_factor >= 0.0, "the learning-rate factor of ", entry.name,
        " must be a number of at least 0, not ", group.lr_factor);
    TORCH_CHECK_VALUE(
        group.weight_decay.value_or(0.0) >= 0.0, "the weight decay of ", entry.name, " must not be negative");
    const auto found =
        std::find_if(groups_.begin(), groups_.end(), [&](const ParameterRange& each) { return each.group == group; });
    entry.group = static_cast<size_t>(found - groups_.begin());
    if (found == groups_.end()) {
      groups_.push_back({group});
    }
  }
}

void ParameterTable::lay_out() {
  std::stable_sort(entries_.begin(), entries_.end(), [](const ParameterEntry& a, const ParameterEntry& b) {
    return a.group != b.group ? a.group < b.group : row_length(a.tensor) < row_length(b.tensor);
  });
  int64_t size = 0;
  for (ParameterEntry& entry : entries_) {
    entry.begin = size;
    entry.size = entry.tensor.numel();
    size += entry.size;
    ParameterRange& range = groups_[entry.group];
    range.begin = range.size == 0 ? entry.begin : range.begin;
    range.size += entry.size;
  }
  at::NoGradGuard no_grad;
  values_ = at::empty({size}, entries_[0].tensor.options().requires_grad(false));
  gradients_ = at::zeros_like(values_);
  for (ParameterEntry& entry : entries_) {
    const at::Tensor view = slice(entry, values_);
    view.copy_(entry.tensor);
    entry.tensor.set_data(view);
    gradient_views_.push_back(slice(entry, gradients_));
    entry.tensor.mutable_grad() = gradient_views_.back();
    if (gradients_.is_cpu()) {
      entry.gradient_buffer = std::make_shared<ops::GradientBuffer>(gradient_views_.back());
    }
  }
}

void ParameterTable::connect_adapters() {
  const auto places = this->places();
  for (const auto& module : adapters_) {
    const auto adapter = as_adapter(module.lock());
    for (const auto& item : adapter->named_parameters()) {
      if (const auto place = places.find(item.value().unsafeGetTensorImpl()); place != places.end()) {
        adapter->set_gradient_buffer(item.key(), entries_[place->second].gradient_buffer);
      }
    }
    for (const LowRankPair& pair : adapter->pairs()) {
      const auto a = places.find(pair.a.unsafeGetTensorImpl());
      const auto b = places.find(pair.b.unsafeGetTensorImpl());
      if (a != places.end() && b != places.end()) {
        entries_[a->second].pair = entries_[b->second].pair = pairs_.size();
        pairs_.push_back({a->second, b->second, pair.scale});
      } else if (a != places.end() || b != places.end()) {
        const bool trains_a = a != places.end();
        half_pairs_.push_back({(trains_a ? a : b)->second, (trains_a ? pair.b : pair.a).detach(), pair.scale});
      }
    }
  }
}

const at::Tensor& ParameterTable::gradients() {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < entries_.size(); ++i) {
    at::Tensor& gradient = entries_[i].tensor.mutable_grad();
    const at::Tensor& view = gradient_views_[i];
    if (gradients_.is_cpu()) {
      entries_[i].gradient_buffer->withdraw();
    }
    if (!gradient.defined()) {
      view.zero_();
    } else if (gradient.const_data_ptr() != view.const_data_ptr()) {
      view.copy_(gradient);
    } else {
      continue;
    }
    gradient = view;
  }
  return gradients_;
}

void ParameterTable::zero_grad() {
  if (!gradients_.is_cpu()) {
    gradients_.zero_();
    return;
  }
  for (size_t i = 0; i < entries_.size(); ++i) {
    at::Tensor& gradient = entries_[i].tensor.mutable_grad();
    if (entries_[i].gradient_buffer->offer()) {
      gradient.reset();
    } else {
      gradient = gradient_views_[i].zero_();
    }
  }
}

void ParameterTable::mark_changed() {
  for (const ParameterEntry& each : entries_) {
    each.tensor.unsafeGetTensorImpl()->bump_version();
  }
}

at::Tensor ParameterTable::clip_gradients(double max_norm) {
  constexpr double kAddend = 1e-6;
  const at::Tensor norm = gradients().norm();
  if (max_norm <= 0.0) {
    return norm;
  }
  if (gradients_.is_cpu()) { // where a look at the norm may save the pass over the gradients
    if (const double value = norm.item<double>(); value > max_norm) {
      gradients_.mul_(max_norm / (value + kAddend));
    }
    return norm;
  }
  const at::Tensor factor = at::where(norm > max_norm, max_norm / (norm.to(at::kDouble) + kAddend), 1.0);
  gradients_.mul_(factor.to(gradients_.scalar_type()));
  return norm;
}

GroupOf lora_plus(double ratio_b) {
  TORCH_CHECK_VALUE(std::isfinite(ratio_b) && ratio_b > 0.0, "LoRA+'s ratio must be a number above 0, not ", ratio_b);
  return [ratio_b](const ParameterEntry& entry) {
    ParameterGroup group;
    const bool vector = entry.tensor.dim() == 1;
    if (entry.role == ParameterRole::kB || vector) {
      group.lr_factor = ratio_b;
    }
    if (vector && entry.name.find("bias") != std::string::npos) {
      group.weight_decay = 0.0;
    }
    return group;
  };
}

} // namespace rora
