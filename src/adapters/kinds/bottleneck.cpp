#include "bottleneck.h"

#include "../module_matching.h"
#include "config_numbers.h"

#include <rora/core/projection.h>

#include <c10/util/Exception.h>

#include <optional>

namespace rora::detail {
namespace {

constexpr const char* kNormal = "bert";
constexpr const char* kIdentity = "mam_adapter";

/// Where the adapter of a module stands; nothing where the form has none of it. In series that is told by the module's
/// name alone, as in LLM-Adapters.
std::optional<BottleneckPlace> place_of(BottleneckForm form, const std::string& module) {
  if (form == BottleneckForm::kParallel) {
    return BottleneckPlace::kBeside;
  }
  const std::string part = last_part(module);
  return part == "gate_proj" || part == "up_proj" ? std::optional(BottleneckPlace::kInput)
      : part == "down_proj"                       ? std::optional(BottleneckPlace::kOutput)
                                                  : std::nullopt;
}

double read_scaling(const JsonObject& config) {
  if (config.is_string("scaling")) { // "learned"
    config.fail("scaling", "'" + config.string("scaling") + "' is not supported (a number is)");
  }
  return read_float(config, "scaling", 1.0);
}

std::shared_ptr<const AdapterKind> parse(const JsonObject& config) {
  require_only(config, "non_linearity", "tanh");
  require_only(config, "bias", "none");
  BottleneckOptions options; // the fork's own defaults for what is absent
  options.form(config.boolean("use_parallel_adapter", false) ? BottleneckForm::kParallel : BottleneckForm::kSeries);
  options.width(config.integer("bottleneck_size", options.width()));
  options.scaling(read_scaling(config));
  options.dropout(read_dropout(config, "adapter_dropout"));
  const std::string start = config.string("init_weights", kNormal);
  if (start != kNormal && start != kIdentity) {
    config.fail("init_weights", "must be bert or mam_adapter, not " + config.text("init_weights"));
  }
  options.start(start == kNormal ? BottleneckStart::kNormal : BottleneckStart::kIdentity);
  if (options.width() < 1) {
    config.fail("bottleneck_size", "must be at least 1, not " + std::to_string(options.width()));
  }
  return std::make_shared<BottleneckKind>(options);
}

const BottleneckAdapter& bottleneck_of(const NamedAdapter& named) {
  const auto* adapter = dynamic_cast<const BottleneckAdapter*>(named.adapter.get());
  TORCH_CHECK_VALUE(
      adapter != nullptr, named.module, ": its adapter is no bottleneck: one folder cannot hold it beside bottlenecks");
  return *adapter;
}

} // namespace

BottleneckKind::BottleneckKind(const BottleneckOptions& options) : options_(options) {
  options_.validate();
}

std::string BottleneckKind::peft_type() const {
  return "BOTTLENECK";
}

void BottleneckKind::validate(const std::string& module, const ProjectionImpl& projection) const {
  TORCH_CHECK_VALUE(
      place_of(options_.form(), module), module,
      ": bottlenecks in series stand at gate_proj, up_proj and down_proj alone, parallel ones at any projection");
}

std::shared_ptr<Adapter> BottleneckKind::make(
    const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const {
  return std::make_shared<BottleneckAdapter>(projection, options_, place_of(options_.form(), module).value());
}

std::vector<AdapterTensor> BottleneckKind::tensors(const std::string& module, const ProjectionImpl& projection) const {
  const BottleneckPlace place = place_of(options_.form(), module).value();
  const int64_t in = place == BottleneckPlace::kOutput ? projection.out_features() : projection.in_features();
  const int64_t out = place == BottleneckPlace::kInput ? projection.in_features() : projection.out_features();
  return {{"adapter_down", {options_.width(), in}}, {"adapter_up", {out, options_.width()}}};
}

std::string BottleneckKind::key(const std::string& module, const std::string& tensor) const {
  return AdapterKind::key(module, tensor) + ".weight";
}

void BottleneckKind::write(JsonFields& config) const {
  config.set("bottleneck_size", options_.width());
  config.set("non_linearity", "tanh");
  config.set("adapter_dropout", options_.dropout());
  config.set("use_parallel_adapter", options_.form() == BottleneckForm::kParallel);
  config.set("scaling", options_.scaling()); // the fork knows a float alone
  config.set("bias", "none");
  config.set("init_weights", options_.start() == BottleneckStart::kNormal ? kNormal : kIdentity);
}

void BottleneckKind::describe(JsonFields& fields) const {
  fields.set("peft_type", peft_type());
  fields.set("form", options_.form() == BottleneckForm::kParallel ? "parallel" : "series");
  fields.set("width", options_.width());
  set_number(fields, "scaling", options_.scaling());
  fields.set("dropout", options_.dropout());
}

std::shared_ptr<const AdapterKind> BottleneckKind::with_dropout(double dropout) const {
  return std::make_shared<BottleneckKind>(BottleneckOptions(options_).dropout(dropout));
}

std::shared_ptr<const AdapterKind> BottleneckKind::as_saved(
    const std::vector<NamedAdapter>& adapters, bool portable) const {
  const BottleneckOptions& first = bottleneck_of(adapters.front()).options;
  for (const NamedAdapter& each : adapters) {
    const BottleneckAdapter& adapter = bottleneck_of(each);
    const BottleneckOptions& own = adapter.options;
    TORCH_CHECK_VALUE(
        own.form() == first.form() && own.width() == first.width() && own.scaling() == first.scaling() &&
            own.dropout() == first.dropout() && place_of(own.form(), each.module) == adapter.place,
        each.module, ": its bottleneck differs from the others of its name: one folder holds one form and one width");
  }
  return std::make_shared<BottleneckKind>(first);
}

AdapterKindEntry bottleneck_entry() {
  return {
      "BOTTLENECK",
      {"bottleneck_size", "non_linearity", "adapter_dropout", "use_parallel_adapter", "scaling", "bias",
       "init_weights"},
      parse};
}

} // namespace rora::detail
