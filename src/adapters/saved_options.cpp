#include "attachment.h"
#include "attention_attachment.h"
#include "kinds/low_rank.h"
#include "module_matching.h"
#include "rows_attachment.h"

#include <c10/util/Exception.h>

#include <set>

namespace rora::detail {
namespace {

const AttachedOptions* attached_options(const Adapter& adapter) {
  return dynamic_cast<const AttachedOptions*>(adapter.config.get());
}

/// The options that all of the adapters were attached with; null where they were not attached together.
const AttachedOptions* common_options(const std::vector<NamedAdapter>& adapters) {
  const AttachedOptions* options = attached_options(*adapters.front().adapter);
  for (const NamedAdapter& each : adapters) {
    if (attached_options(*each.adapter) != options) {
      return nullptr;
    }
  }
  return options;
}

/// Whether `options` mean just these modules of `model`.
bool means(
    const AdapterOptions& options, const torch::nn::Module& model, const std::vector<std::string>& modules,
    const std::vector<RowsAttachment>& rows) {
  try {
    std::vector<std::string> meant;
    for (const Attachment& each : plan_attachments(model, options)) {
      meant.push_back(each.module);
    }
    return meant == modules && same_rows(plan_rows(model, options), rows);
  } catch (const c10::ValueError&) {
    return false; // the model is no longer the one that they were attached to
  }
}

/// PEFT takes layers_to_transform only beside a list of target modules: "all-linear" becomes the list that it means.
void list_targets(AdapterOptions& options, const std::vector<std::string>& modules) {
  if (options.target_modules().all_linear && !options.layers_to_transform().empty()) {
    std::set<std::string> kinds;
    for (const std::string& module : modules) {
      kinds.insert(module.substr(module.rfind('.') + 1));
    }
    options.target_modules(std::vector<std::string>(kinds.begin(), kinds.end()));
  }
}

/// The kind that the first adapter was attached with; of one that was put in by hand, the low-rank one.
std::shared_ptr<const AdapterKind> attached_kind(const std::vector<NamedAdapter>& adapters) {
  for (const NamedAdapter& each : adapters) {
    if (const AttachedOptions* attached = attached_options(*each.adapter)) {
      return attached->options.resolved_kind();
    }
  }
  return low_rank_kind_of(adapters);
}

} // namespace

AdapterOptions saved_options(const torch::nn::Module& model, const std::string& name, bool portable) {
  if (auto options = saved_attention_options(model, name)) {
    return *options;
  }
  std::vector<NamedAdapter> adapters;
  std::vector<std::string> modules;
  const std::vector<RowsAttachment> rows = attached_rows(model, name);
  for (const auto& [module, projection] : projections_with(model, name)) {
    if (projection->adapter(name)->as<TrainedRows>() == nullptr) {
      adapters.push_back({module, projection->adapter(name)});
      modules.push_back(module);
    }
  }
  TORCH_CHECK_VALUE(
      !adapters.empty(), "the adapters named '", name, "' are rows of the embedding or the head alone: a folder holds ",
      "them beside those of projections");
  AdapterOptions options;
  const AttachedOptions* attached = common_options(adapters);
  if (attached != nullptr && means(attached->options, model, modules, rows)) {
    options = attached->options;
    list_targets(options, modules);
  } else {
    options.target_modules(modules);
    put_rows_options(rows, options);
    TORCH_CHECK_VALUE(
        means(options, model, modules, rows), "the adapters named '", name,
        "' are not saved: the name of one's module is the end of another module's");
  }
  attached_kind(adapters)->as_saved(adapters, portable)->put_into(options);
  return options;
}

} // namespace rora::detail
