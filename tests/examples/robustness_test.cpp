// What happens around a run and must not cost it: another run, a full disk, a reader that goes away, a kill.

#include "examples/support.h"

#include <gtest/gtest.h>

#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

namespace rora::testing {
namespace {

/// Waits until a run has written so much of its metrics.
void wait_for_metrics(const Workplace& place, const std::string& output, size_t bytes = 500) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (place.read(output + "/metrics.jsonl").size() < bytes && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

/// A shell's command whose output is read line by line, that of stderr too. Its first line is the process's number.
class Piped {
 public:
  Piped(const std::string& before, const std::vector<std::string>& arguments) {
    std::string command = "echo $$; " + before + " exec " + RORA_BINARY;
    for (const std::string& each : arguments) {
      command += " '" + each + "'";
    }
    pipe_ = ::popen((command + " 2>&1").c_str(), "r");
    pid_ = std::stoi(line());
  }
  ~Piped() {
    if (pipe_ != nullptr) {
      ::kill(pid_, SIGKILL);
      ::pclose(pipe_);
    }
  }
  Piped(const Piped&) = delete;
  Piped& operator=(const Piped&) = delete;

  pid_t pid() const {
    return pid_;
  }
  /// The next line, empty at the end.
  std::string line() {
    char text[4096];
    return std::fgets(text, sizeof text, pipe_) != nullptr ? text : "";
  }
  /// The next line that holds `part`, empty where there is none.
  std::string line_with(const std::string& part) {
    std::string each = line();
    while (!each.empty() && each.find(part) == std::string::npos) {
      each = line();
    }
    return each;
  }
  /// Closes the pipe, and gives the exit code.
  int close() {
    const int status = ::pclose(pipe_);
    pipe_ = nullptr;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  std::FILE* pipe_ = nullptr;
  pid_t pid_ = 0;
};

TEST(Robustness, ASecondRunInOneFolderIsRefusedAndTheFirstGoesOn) {
  const Workplace place;
  Process first(place.finetune("run", 100000));
  wait_for_metrics(place, "run");
  expect_error(run_rora(place.finetune("run", 100000)), 1, "run: another process writes to it");
  expect_error(run_rora(place.finetune("run", 100000, {"--resume"})), 1, "run: another process writes to it");
  const size_t before = place.read("run/metrics.jsonl").size();
  wait_for_metrics(place, "run", before + 500);
  first.signal(SIGTERM);
  expect_error(first.wait(), 128 + SIGTERM, "--resume");
  const auto lines = place.lines("run/metrics.jsonl");
  for (size_t i = 0; i < lines.size(); ++i) {
    ASSERT_EQ(lines[i]["step"], i + 1);
  }
  EXPECT_TRUE(place.exists("run/checkpoint-" + std::to_string(lines.size()) + "/adapter_model.safetensors"));
}

TEST(Robustness, WhatAKilledRunLeftHalfWrittenIsSweptWhenItGoesOn) {
  const Workplace place;
  Process process(place.finetune("run", 400));
  wait_for_metrics(place, "run");
  process.signal(SIGINT);
  ASSERT_EQ(process.wait().code, 130);
  for (const char* name : {"checkpoint-9.partial", ".partial"}) {
    std::filesystem::create_directory(place.path(std::string("run/") + name));
    place.write(std::string("run/") + name + "/file", "x");
  }
  place.write("run/.run.json.123-0.tmp", "{");
  place.write("run/notes.txt", "the user's own");
  const Outcome outcome = run_rora(place.finetune("run", 400, {"--resume"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* name : {"checkpoint-9.partial", ".partial", ".run.json.123-0.tmp"}) {
    EXPECT_FALSE(place.exists(std::string("run/") + name)) << name;
  }
  EXPECT_TRUE(place.exists("run/notes.txt"));
}

TEST(Robustness, AReaderThatGoesAwayDoesNotEndTheRun) {
  const Workplace place;
  Piped run("", place.finetune("run", 300));
  run.line_with("step 1/");
  EXPECT_EQ(run.close(), 1); // the output could not be written, and is told so by the exit code
  EXPECT_TRUE(place.exists("run/adapter_model.safetensors"));
  EXPECT_EQ(place.json("run/run.json")["finished"], true);
}

TEST(Robustness, AFullDiskIsWaitedForAndTheRunThenEndsWell) {
  const Workplace place;
  ASSERT_EQ(run_rora(place.finetune("whole", 3)).code, 0);
  // Files of at most 4 KiB: run.json and the metrics fit, the adapter does not.
  Piped run("ulimit -S -f 8;", place.finetune("run", 3));
  EXPECT_NE(run.line_with("trying again").find("File too large"), std::string::npos);
  const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(run.pid(), RLIMIT_FSIZE, &none, nullptr), 0);
  EXPECT_NE(run.line_with("done: 3 steps"), "");
  EXPECT_EQ(run.close(), 0);
  EXPECT_EQ(place.read("run/adapter_model.safetensors"), place.read("whole/adapter_model.safetensors"));
}

TEST(Robustness, ASignalGivesUpWaitingForRoomAndLeavesNoHalfAdapter) {
  const Workplace place;
  Piped run("ulimit -S -f 8;", place.finetune("run", 3));
  ASSERT_NE(run.line_with("trying again"), "");
  ::kill(run.pid(), SIGINT);
  EXPECT_NE(run.line_with("cannot write: File too large").find("rora finetune: "), std::string::npos);
  EXPECT_EQ(run.close(), 1);
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json", ".partial"}) {
    EXPECT_FALSE(place.exists(std::string("run/") + name)) << name;
  }
}

TEST(Robustness, ALossThatIsNotFiniteLeavesACheckpointToGoOnFromAtAnotherRate) {
  const Workplace place;
  std::vector<std::string> fast = place.finetune("run", 40, {"--schedule", "constant", "--clip", "0", "--rank", "4"});
  const auto rate = std::find(fast.begin(), fast.end(), "--lr") + 1;
  *rate = "1e30";
  const Outcome failed = run_rora(fast);
  expect_error(failed, 1, "not finite");
  ASSERT_NE(failed.err.find("may be resumed with another lr"), std::string::npos) << failed.err;
  fast.push_back("--resume");
  *(std::find(fast.begin(), fast.end(), "--lr") + 1) = "1e-3";
  const Outcome resumed = run_rora(fast);
  EXPECT_NE(resumed.out.find("going on from step 1"), std::string::npos) << resumed.out << resumed.err;
}

} // namespace
} // namespace rora::testing
