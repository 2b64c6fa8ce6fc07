#include "generation_flags.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <string_view>
#include <utility>

namespace rora::cli {

void GenerationFlags::add_max_new_tokens(Flags& flags) {
  flags.add("max-new-tokens", max_new_tokens, "The most tokens that are generated").between(0, kMaxCount);
}

void GenerationFlags::add_beams(Flags& flags) {
  flags.add("beams", beams, "Width of the beam search; 1 is none").between(1, 1024);
}

void GenerationFlags::add_sampling(Flags& flags) {
  flags
      .add(
          "temperature", temperature,
          "Of the sampling; 0 takes the likeliest token, whatever --top-k, --top-p and --seed say")
      .at_least(0);
  flags.add("top-k", top_k, "Sample from the k likeliest tokens; 0: from all").between(0, kMaxCount);
  flags.add("top-p", top_p, "Sample from the fewest tokens whose probabilities reach p").at_least(0);
  flags.add("seed", seed, "Of the sampling").at_least(0);
}

GenerationOptions GenerationFlags::options(const ModelFlags& model, const Tokenizer& tokenizer) const {
  if (beams > 1 && temperature > 0) {
    throw UsageError("--beams " + std::to_string(beams) + " does not sample: --temperature must be 0");
  }
  if (const int64_t vocab_size = model.read_config().vocab_size(); beams > vocab_size) {
    throw UsageError(
        "--beams " + std::to_string(beams) + " is over the model's vocab_size " + std::to_string(vocab_size));
  }
  if (top_p <= 0.0 || top_p > 1.0) {
    throw UsageError("--top-p must be above 0 and at most 1");
  }
  if (const std::vector<std::string> left_out = fields_not_followed(model.model); !left_out.empty()) {
    std::string names;
    for (const std::string& each : left_out) {
      names += (names.empty() ? "" : ", ") + each;
    }
    std::cerr << (std::filesystem::path(model.model) / "generation_config.json").string() << ": " << names
              << (left_out.size() == 1 ? " is not followed" : " are not followed") << std::endl;
  }
  std::vector<int64_t> stops = read_stop_token_ids(model.model);
  if (tokenizer.eos_id && std::find(stops.begin(), stops.end(), *tokenizer.eos_id) == stops.end()) {
    stops.push_back(*tokenizer.eos_id); // what `rora finetune` puts behind an answer
  }
  return GenerationOptions()
      .max_new_tokens(max_new_tokens)
      .temperature(temperature)
      .top_k(top_k)
      .top_p(top_p)
      .num_beams(beams)
      .seed(static_cast<uint64_t>(seed))
      .stop_token_ids(std::move(stops));
}

void add_stop(GenerationOptions& options, std::optional<int64_t> id) {
  std::vector<int64_t> stops = options.stop_token_ids();
  if (id && std::find(stops.begin(), stops.end(), *id) == stops.end()) {
    stops.push_back(*id);
    options.stop_token_ids(std::move(stops));
  }
}

std::string generated_text(const Tokenizer& tokenizer, std::vector<int64_t> ids) {
  std::erase_if(ids, [&](int64_t id) { return id >= tokenizer.vocab_size(); });
  return tokenizer.decode(ids, /*skip_special_tokens=*/true);
}

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<int64_t> context)
    : tokenizer_(tokenizer), ids_(std::move(context)), written_(generated_text(tokenizer, ids_).size()) {}

void TextStream::add(const std::vector<int64_t>& ids) {
  constexpr std::string_view kReplacement = "\uFFFD"; // stands for the bytes of a character that is not whole yet
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  const std::string text = generated_text(tokenizer_, ids_);
  std::string_view whole = text;
  while (whole.ends_with(kReplacement)) {
    whole.remove_suffix(kReplacement.size());
  }
  write(whole);
}

void TextStream::finish() {
  write(generated_text(tokenizer_, ids_));
}

void TextStream::write(std::string_view text) {
  if (text.size() > written_) {
    std::cout << text.substr(written_) << std::flush;
    written_ = text.size();
  }
}

} // namespace rora::cli
