#include "table.h"

#include "adalora.h"
#include "bottleneck.h"
#include "low_rank.h"
#include "prefix_tuning.h"

#include <rora/adapters/adapter_options.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <mutex>

namespace rora {
namespace {

struct Table {
  std::mutex mutex;
  std::vector<AdapterKindEntry> entries{
      detail::low_rank_entry(),
      detail::adalora_entry(),
      detail::bottleneck_entry(),
      detail::prefix_tuning_entry(),
  };
};

Table& table() {
  static Table instance;
  return instance;
}

} // namespace

namespace detail {

std::optional<AdapterKindEntry> find_adapter_kind(const std::string& peft_type) {
  Table& known = table();
  const std::lock_guard<std::mutex> lock(known.mutex);
  const auto found = std::find_if(known.entries.begin(), known.entries.end(), [&](const AdapterKindEntry& each) {
    return each.peft_type == peft_type;
  });
  return found == known.entries.end() ? std::nullopt : std::make_optional(*found);
}

std::string known_adapter_kinds() {
  Table& known = table();
  const std::lock_guard<std::mutex> lock(known.mutex);
  std::string names;
  for (const AdapterKindEntry& each : known.entries) {
    names += (names.empty() ? "" : " or ") + each.peft_type;
  }
  return names;
}

} // namespace detail

void register_adapter_kind(AdapterKindEntry entry) {
  TORCH_CHECK_VALUE(entry.parse != nullptr, "a kind of adapter that is registered must be parsed by something");
  TORCH_CHECK_VALUE(
      !detail::find_adapter_kind(entry.peft_type), "the peft_type ", entry.peft_type, " is known already");
  Table& known = table();
  const std::lock_guard<std::mutex> lock(known.mutex);
  known.entries.push_back(std::move(entry));
}

std::shared_ptr<const AdapterKind> AdapterKind::with_dropout(double dropout) const {
  C10_THROW_ERROR(ValueError, "dropout is asked for, and adapters of the kind " + peft_type() + " have none");
}

std::shared_ptr<Adapter> AttentionAdapterKind::make(
    const std::string& module, const ProjectionImpl&, const WeightStatistics&) const {
  TORCH_CHECK_NOT_IMPLEMENTED(false, module, ": adapters of the kind ", peft_type(), " are of attentions");
}

std::vector<AdapterTensor> AttentionAdapterKind::tensors(const std::string& module, const ProjectionImpl&) const {
  TORCH_CHECK_NOT_IMPLEMENTED(false, module, ": adapters of the kind ", peft_type(), " are of attentions");
}

std::shared_ptr<const AdapterKind> AttentionAdapterKind::as_saved(
    const std::vector<NamedAdapter>& adapters, bool portable) const {
  C10_THROW_ERROR(
      ValueError,
      adapters.front().module + ": its adapter was attached with those of attentions, and one folder holds one kind");
}

void AdapterKind::put_into(AdapterOptions& options) const {
  options.kind(shared_from_this());
}

} // namespace rora
