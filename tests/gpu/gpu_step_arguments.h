#pragma once

#include <rora/core/low_rank_adapter.h>
#include <rora/model/decoder.h>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace rora::gpu_step {

/// `--name value` pairs; a name without a value is a switch.
class Flags {
 public:
  Flags(int count, char** words) {
    for (int i = 1; i < count; ++i) {
      if (std::strncmp(words[i], "--", 2) != 0) {
        C10_THROW_ERROR(ValueError, std::string(words[i]) + " is no flag");
      }
      const std::string name = words[i] + 2;
      const bool has_value = i + 1 < count && std::strncmp(words[i + 1], "--", 2) != 0;
      values_[name] = has_value ? words[++i] : "";
    }
  }

  std::string text(const std::string& name, const std::string& otherwise) {
    const auto found = values_.extract(name);
    return found.empty() ? otherwise : found.mapped();
  }
  /// One of the names; the first where the flag is not given.
  std::string choice(const std::string& name, const std::vector<std::string>& names) {
    const std::string chosen = text(name, names[0]);
    if (std::find(names.begin(), names.end(), chosen) == names.end()) {
      C10_THROW_ERROR(ValueError, "--" + name + " cannot be " + chosen);
    }
    return chosen;
  }
  int64_t integer(const std::string& name, int64_t otherwise) {
    return std::stoll(text(name, std::to_string(otherwise)));
  }
  double number(const std::string& name, double otherwise) {
    return std::stod(text(name, std::to_string(otherwise)));
  }
  bool is_set(const std::string& name) {
    return !values_.extract(name).empty();
  }

  /// Throws for a flag that nobody asked for.
  void finish() const {
    if (!values_.empty()) {
      C10_THROW_ERROR(ValueError, "--" + values_.begin()->first + " is no flag of this program");
    }
  }

 private:
  std::map<std::string, std::string> values_;
};

inline Checkpointing checkpointing_of(const std::string& name) {
  return name == "full" ? Checkpointing::kFull : name == "selective" ? Checkpointing::kSelective : Checkpointing::kNone;
}

struct Arguments {
  explicit Arguments(Flags flags)
      : device(flags.text("device", "cpu")),
        dtype(flags.choice("dtype", {"float32", "bfloat16"}) == "bfloat16" ? at::kBFloat16 : at::kFloat),
        rows(flags.choice("rows", {"whole", "padded", "packed"})),
        init(flags.choice("init", {"cpu", "device"})),
        graph(flags.choice("graph", {"none", "repeated", "captured"})),
        batch(flags.integer("batch", 4)),
        seq(flags.integer("seq", 64)),
        steps(flags.integer("steps", 5)),
        warmup(flags.integer("warmup", 0)),
        repeat(flags.integer("repeat", 1)),
        seed(flags.integer("seed", 0)),
        threads(flags.integer("threads", 0)),
        learning_rate(flags.number("lr", 1e-3)),
        frozen(flags.is_set("frozen")),
        checkpointing(checkpointing_of(flags.choice("checkpointing", {"none", "selective", "full"}))),
        room(flags.is_set("room")),
        no_waits(flags.is_set("no-waits")),
        deterministic(flags.is_set("deterministic")) {
    model.hidden_size(flags.integer("hidden", 64))
        .intermediate_size(flags.integer("intermediate", 160))
        .num_hidden_layers(flags.integer("layers", 2))
        .num_attention_heads(flags.integer("heads", 4))
        .num_key_value_heads(flags.integer("kv-heads", 2))
        .vocab_size(flags.integer("vocab", 96))
        .max_position_embeddings(std::max<int64_t>(2048, seq));
    const int64_t rank = flags.integer("rank", 8);
    adapter.rank(rank)
        .alpha(flags.number("alpha", 2.0 * static_cast<double>(rank)))
        .scaling(flags.choice("scaling", {"rora", "lora"}) == "lora" ? Scaling::kStandard : Scaling::kRankStabilized)
        .dora(flags.is_set("dora"))
        .dropout(flags.number("dropout", 0.0));
    flags.finish();
    if (frozen && room) {
      C10_THROW_ERROR(ValueError, "--room is for adapters: --frozen has none");
    }
    if (frozen && graph != "none") {
      C10_THROW_ERROR(ValueError, "--graph is for what is trained: --frozen trains nothing");
    }
  }

  at::Device device;
  at::ScalarType dtype;
  std::string rows, init;
  std::string graph; ///< `repeated` does what is captured again without a graph, on any device
  int64_t batch, seq, steps, warmup, repeat, seed, threads;
  double learning_rate;
  bool frozen;
  Checkpointing checkpointing;
  bool room; ///< for B beside W and A below it
  bool no_waits, deterministic;
  DecoderOptions model;
  LowRankOptions adapter;
};

} // namespace rora::gpu_step
