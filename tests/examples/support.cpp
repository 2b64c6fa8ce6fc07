#include "examples/support.h"

#include <rora/model/decoder.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>

namespace rora::testing {
namespace {

std::string read_all(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

DecoderOptions tiny_options() {
  return DecoderOptions()
      .hidden_size(16)
      .intermediate_size(24)
      .num_hidden_layers(2)
      .num_attention_heads(4)
      .num_key_value_heads(2)
      .eos_token_id({2});
}

/// Weights normal with that deviation, drawn from LibTorch's generator.
void save_random_llama(const DecoderOptions& options, double deviation, const std::filesystem::path& folder) {
  DecoderForCausalLM model(options);
  at::NoGradGuard no_grad;
  for (at::Tensor& parameter : model->parameters()) {
    parameter.dim() == 1 ? parameter.fill_(1.0) : parameter.normal_(0.0, deviation);
  }
  save_model(*model, folder);
}

} // namespace

Process::Process(const std::vector<std::string>& arguments, const std::string& input) {
  std::vector<std::string> words{RORA_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) {
    pointers.push_back(word.data());
  }
  pointers.push_back(nullptr);
  const std::string in = folder_ / "in";
  std::ofstream(in, std::ios::binary) << input;
  const std::string out = folder_ / "out";
  const std::string err = folder_ / "err";
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(::open(in.c_str(), O_RDONLY), STDIN_FILENO);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
    ::execv(pointers[0], pointers.data());
    ::_exit(127);
  }
}

Process::~Process() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

void Process::signal(int number) const {
  ::kill(pid_, number);
}

bool Process::is_running() const {
  siginfo_t ended{};
  ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT); // wait() still finds it
  return ended.si_pid == 0;
}

Outcome Process::wait() {
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return {
      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_all(folder_ / "out"),
      read_all(folder_ / "err")};
}

Outcome run_rora(const std::vector<std::string>& arguments, const std::string& input) {
  return Process(arguments, input).wait();
}

void expect_error(const Outcome& outcome, int code, const std::string& text) {
  EXPECT_EQ(outcome.code, code) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
}

void save_text_model(const std::filesystem::path& folder) {
  torch::manual_seed(5);
  save_random_llama(tiny_options().vocab_size(424).bos_token_id(1), 0.3, folder);
  for (const char* name : {"tokenizer.model", "tokenizer_config.json"}) {
    std::filesystem::copy_file(test_data(std::string("text/sentencepiece/") + name), folder / name);
  }
}

Workplace::Workplace() {
  torch::manual_seed(1);
  save_random_llama(tiny_options().vocab_size(32), 0.2, folder_ / "model");
  std::ostringstream records;
  for (int64_t i = 0; i < kExamples; ++i) {
    // Each token is the one before plus 1, from a prompt of two tokens and of unequal lengths.
    std::vector<int64_t> ids, labels;
    for (int64_t k = 0; k < 5 + i % 4; ++k) {
      ids.push_back(3 + (i + k) % 28);
      labels.push_back(k < 2 ? -100 : ids.back());
    }
    records << Json({{"input_ids", ids}, {"labels", labels}}).dump() << "\n";
  }
  write("train.jsonl", records.str());
}

std::vector<std::string> Workplace::finetune(
    const std::string& output, int steps, const std::vector<std::string>& more) const {
  std::vector<std::string> arguments{"finetune", "--model",     path("model"),         "--data",    path("train.jsonl"),
                                     "--output", path(output),  "--batch-size",        "4",         "--lr",
                                     "0.02",     "--max-steps", std::to_string(steps), "--threads", "1"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

void Workplace::write(const std::string& name, const std::string& content) const {
  std::ofstream(folder_ / name, std::ios::binary) << content;
}

std::string Workplace::read(const std::string& name) const {
  return read_all(folder_ / name);
}

Json Workplace::json(const std::string& name) const {
  return Json::parse(read(name));
}

std::vector<Json> Workplace::lines(const std::string& name) const {
  std::vector<Json> all;
  std::istringstream stream(read(name));
  for (std::string line; std::getline(stream, line);) {
    all.push_back(Json::parse(line));
  }
  return all;
}

bool Workplace::exists(const std::string& name) const {
  return std::filesystem::exists(folder_ / name);
}

} // namespace rora::testing
