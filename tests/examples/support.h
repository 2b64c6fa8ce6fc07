#pragma once

#include "support/test_data.h"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace rora::testing {

using Json = nlohmann::ordered_json;

/// How a run of the binary ended.
struct Outcome {
  int code = -1; ///< 128 + the signal where one ended it
  std::string out;
  std::string err;
};

/// A process of the binary, its output going to files and `input` coming from one.
class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments, const std::string& input = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  void signal(int number) const;
  bool is_running() const;
  Outcome wait();

 private:
  TemporaryFolder folder_;
  int pid_ = -1;
};

/// Runs the binary to its end.
Outcome run_rora(const std::vector<std::string>& arguments, const std::string& input = {});

/// Fails the test unless the run ended with `code` and one line on stderr that holds `text`.
void expect_error(const Outcome& outcome, int code, const std::string& text);

/// Writes a random LLaMA of two layers, of 424 tokens, with a sentencepiece tokenizer.
void save_text_model(const std::filesystem::path& folder);

/// A folder with a random LLaMA of two layers, "model", and "train.jsonl", whose records are tokenised already.
class Workplace {
 public:
  static constexpr int64_t kExamples = 12;

  Workplace();
  std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }
  /// finetune on train.jsonl into the folder `output`, by so many steps, with further flags.
  std::vector<std::string> finetune(
      const std::string& output, int steps, const std::vector<std::string>& more = {}) const;
  void write(const std::string& name, const std::string& content) const;
  std::string read(const std::string& name) const;
  Json json(const std::string& name) const;
  std::vector<Json> lines(const std::string& name) const;
  bool exists(const std::string& name) const;

 private:
  TemporaryFolder folder_;
};

} // namespace rora::testing
