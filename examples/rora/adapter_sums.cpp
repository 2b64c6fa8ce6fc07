#include "adapter_sums.h"
#include "output_folder.h"

#include <rora/checkpoint/file.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iostream>

namespace rora::cli {
namespace {

namespace fs = std::filesystem;

std::string short_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1e", value);
  return text;
}

std::string counted(int64_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

/// The content of the folder's template of chats, or nothing.
std::optional<std::string> chat_template(const fs::path& folder) {
  const fs::path path = folder / "chat_template.jinja";
  return fs::exists(path) ? std::optional<std::string>(read_file(path)) : std::nullopt;
}

void warn_where_unlike(const LowRankFolder& adapter, const LowRankFolder& first) {
  if (!adapter.base_model.empty() && !first.base_model.empty() && adapter.base_model != first.base_model) {
    std::cerr << "base_model_name_or_path: " << adapter.path.string() << " names " << adapter.base_model << ", "
              << first.path.string() << " " << first.base_model
              << ": where these are not one model, the sum means nothing; the latter is written\n";
  }
  const auto own = chat_template(adapter.path);
  if (own && own != chat_template(first.path)) {
    std::cerr << adapter.path.string() << " has a chat_template.jinja that " << first.path.string()
              << " has not: what is written has the latter's files\n";
  }
}

} // namespace

void AdapterOutputFlags::add_output(Flags& flags) {
  flags.add("output", output, "The folder to write").required();
}

void AdapterOutputFlags::add_rank(Flags& flags, const std::string& description) {
  flags.add("rank", rank, description).between(1, kMaxCount);
}

void AdapterOutputFlags::add_scaling(Flags& flags) {
  flags.choice<std::optional<Scaling>>(
      "scaling", scaling,
      {{"kept", std::nullopt}, {"rank-stabilized", Scaling::kRankStabilized}, {"standard", Scaling::kStandard}},
      "How readers make the scale of alpha and rank: alpha/sqrt(r), which needs a reader of use_rslora, or alpha/r; "
      "alphas are such that each module's scale is what it was. kept: as the first adapter has it");
}

void AdapterOutputFlags::check() const {
  if (output.empty()) {
    throw UsageError("--output names no folder");
  }
  require_neither_model_nor_adapter(output);
}

std::vector<LowRankFolder> read_adapters(const std::vector<std::string>& folders) {
  std::vector<LowRankFolder> adapters;
  for (const std::string& folder : folders) {
    adapters.push_back(read_low_rank_folder(folder));
    warn_where_unlike(adapters.back(), adapters.front());
  }
  return adapters;
}

std::vector<double> read_weights(const std::string& text, size_t adapters) {
  std::vector<double> weights;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const char* const last = text.data() + end;
    double weight = 0.0;
    const auto [stop, error] = std::from_chars(text.data() + begin, last, weight);
    if (error != std::errc() || stop != last || !std::isfinite(weight)) {
      throw UsageError(
          "--weights: expected finite numbers with commas, found '" + text.substr(begin, end - begin) + "'");
    }
    weights.push_back(weight);
    begin = end + 1;
  }
  if (weights.size() != adapters) {
    throw UsageError(
        "--weights has " + std::to_string(weights.size()) + " numbers for " +
        counted(static_cast<int64_t>(adapters), "adapter"));
  }
  return weights;
}

std::string error_text(const ChangeError& error) {
  return error.module + "'s by " + short_text(error.largest) + " of it, the most, and all together by " +
      short_text(error.overall);
}

void write_sum(CombinedAdapter& sum, const AdapterOutputFlags& flags) {
  const auto modules = static_cast<int64_t>(sum.adapter.modules.size());
  std::cout << counted(modules, "module");
  const char* before = ": ";
  for (const auto& [count, what] :
       {std::pair(sum.side_by_side, "with their factors side by side"),
        std::pair(sum.shared_a, "that share A, with the sum of their B"),
        std::pair(sum.shared_b, "that share B, with the sum of their A"),
        std::pair(modules - sum.side_by_side - sum.shared_a - sum.shared_b, "of one adapter alone")}) {
    if (count > 0) {
      std::cout << before << count << " " << what;
      before = ", ";
    }
  }
  std::cout << "\n";
  if (flags.rank) {
    const ChangeError error = reduce_rank(sum.adapter, *flags.rank);
    std::cout << "rank " << *flags.rank << " at most "
              << (error.module.empty() ? "leaves nothing out" : "changes " + error_text(error)) << "\n";
  }
  write_adapter(sum.adapter, flags.output, SaveLowRankOptions().scaling(flags.scaling));
}

void write_adapter(const LowRankFolder& adapter, const std::string& output, const SaveLowRankOptions& options) {
  StagedFolder staged(output);
  const ChangeError error = save_low_rank_folder(adapter, staged.path(), options);
  copy_companion_files(adapter.path, staged.path());
  const LowRankFolder written = read_low_rank_folder(staged.path());
  staged.commit();
  int64_t least = written.modules.begin()->second.rank(), most = least;
  for (const auto& [module, change] : written.modules) {
    least = std::min(least, change.rank());
    most = std::max(most, change.rank());
  }
  std::cout << (error.module.empty() ? "no value was rounded"
                                     : "rounding to float32, once a value, changes " + error_text(error))
            << "\nwritten to " << output << ": rank " << least << (least < most ? " to " + std::to_string(most) : "")
            << ", scales " << (written.options.low_rank().scaling() == Scaling::kStandard ? "alpha/r" : "alpha/sqrt(r)")
            << (written.options.low_rank().dora() ? ", DoRA" : "") << "\n";
}

} // namespace rora::cli
