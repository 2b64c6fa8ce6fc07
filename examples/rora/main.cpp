// The rora binary: one subcommand a file, each of which parses its flags and calls the library.

#include "command.h"

#include <rora/checkpoint/mapped_files.h>
#include <rora/error.h>

#include <c10/util/Exception.h>
#include <CLI/CLI.hpp>

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <iostream>
#include <list>
#include <new>

namespace rora::cli {
namespace {

constexpr int kFailure = 1;
constexpr int kWrongUsage = 2;

constexpr Command kCommands[] = {
    {"finetune", "Train an adapter of a model's folder on a data file", add_finetune},
    {"pretrain", "Train all weights of a model, from scratch or from a folder", add_pretrain},
    {"evaluate", "Score a model by perplexity or by its answers, as one JSON object", add_evaluate},
    {"generate", "Go on from a prompt", add_generate},
    {"chat", "Talk with a model", add_chat},
    {"merge", "Write an adapter into its model's weights", add_merge},
    {"combine", "Add and subtract adapters exactly, without their model", add_combine},
    {"average", "Average the adapters that several clients have trained", add_average},
    {"convert", "Write the same adapter with another alpha, scaling or rank", add_convert},
    {"prune", "Write a smaller model, without its least important heads and MLP channels", add_prune},
    {"tokenize", "Print the token ids of a text as a JSON list", add_tokenize},
    {"inspect", "Describe a model folder or an adapter folder", add_inspect},
    {"sweep", "Train over methods, ranks, learning rates and seeds, and report what the scale does", add_sweep},
    {"theory", "Show how a first step grows with the rank, and test the paper's equations on it", add_theory},
    {"bench", "Time training steps and print them as one JSON line", add_bench},
};

/// LibTorch's warnings go to a terminal alone: elsewhere stderr carries errors only.
class TerminalWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override {
    if (isatty(STDERR_FILENO) != 0) {
      std::cerr << "rora: " << warning.msg() << "\n";
    }
  }
};

/// Says it in one line that a terminal can show, cut where somebody's input made it long.
int fail(int code, const std::string& place, std::string message) {
  constexpr size_t kMaxBytes = 800;
  while (!message.empty() && message.back() == '\n') {
    message.pop_back();
  }
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::string line = one_line(message);
  if (line.size() > kMaxBytes) {
    line = one_line(line.substr(0, kMaxBytes)) + "..."; // a character may have been cut in two
  }
  std::cerr << place << ": " << line << "\n";
  return code;
}

/// LibTorch's message, but for its allocator's, which speaks of the allocator's source.
std::string message_of(const c10::Error& error) {
  const std::string message = error.what_without_backtrace();
  constexpr std::string_view kTried = "you tried to allocate ";
  const size_t tried = message.find(kTried);
  if (message.find("DefaultCPUAllocator") == std::string::npos || tried == std::string::npos) {
    return message;
  }
  const size_t number = tried + kTried.size();
  return "out of memory: " + message.substr(number, message.find_first_not_of("0123456789", number) - number) +
      " bytes cannot be had";
}

void write_to_stderr(const char* text) {
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) {
    ::_exit(kFailure);
  }
}

/// Ends the process with one line where a mapped file was cut short beneath it; all other faults go on as ever. Calls
/// only what a signal's handler may.
void on_bus_error(int number, siginfo_t* info, void* /*context*/) {
  const char* const file = info->si_code > 0 ? mapped_file_at(info->si_addr) : nullptr;
  if (file == nullptr) {
    ::signal(number, SIG_DFL);
    ::raise(number);
    return;
  }
  write_to_stderr("rora: ");
  write_to_stderr(file);
  write_to_stderr(
      ": was cut off or cannot be read any more while it was in use; --no-mmap reads it into memory first\n");
  ::_exit(kFailure);
}

void handle_bus_errors() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

struct Subcommand {
  CLI::App* app;
  Flags flags;
  Run run;
};

/// The arguments with those of the `--config` file of the subcommand that the first one names.
std::vector<std::string> expand(const std::list<Subcommand>& subcommands, const std::vector<std::string>& arguments) {
  std::string names;
  for (const Subcommand& each : subcommands) {
    names += (names.empty() ? "" : ", ") + each.app->get_name();
    if (!arguments.empty() && each.app->get_name() == arguments[0]) {
      std::vector<std::string> expanded = with_config_file(*each.app, {arguments.begin() + 1, arguments.end()});
      expanded.insert(expanded.begin(), arguments[0]);
      return expanded;
    }
  }
  if (arguments.empty() || !arguments[0].starts_with("-")) {
    throw UsageError(
        (arguments.empty() ? "a subcommand is required" : "'" + arguments[0] + "' is no subcommand") + ": " + names);
  }
  return arguments;
}

int run(const std::vector<std::string>& arguments, std::string& place) {
  CLI::App app("Low-rank fine-tuning of LLaMA-family models", "rora");
  app.require_subcommand(1);
  app.set_version_flag("--version", "rora " RORA_VERSION);
  std::list<Subcommand> subcommands;
  std::string config; // read ahead of CLI11, by with_config_file
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    sub->add_option("--config", config, "A JSON file whose keys are flags; flags override it")->type_name("FILE");
    subcommands.push_back({sub, Flags(*sub), {}});
    subcommands.back().run = command.add(subcommands.back().flags);
    place += !arguments.empty() && arguments[0] == command.name ? std::string(" ") + command.name : "";
  }
  std::vector<std::string> expanded = expand(subcommands, arguments);
  try {
    std::reverse(expanded.begin(), expanded.end());
    app.parse(std::move(expanded));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      return app.exit(error); // --help
    }
    std::string wrong = error.what();
    if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
      for (const std::string& each : app.remaining(/*recurse=*/true)) { // with what follows them, the last first
        wrong = each.starts_with("-") ? each + " is no flag" : wrong;
      }
    }
    throw UsageError(wrong + " (" + place + " --help lists the flags)");
  }
  for (const Subcommand& each : subcommands) {
    if (each.app->parsed()) {
      return each.run();
    }
  }
  return kWrongUsage;
}

} // namespace

int guarded_run(const std::vector<std::string>& arguments) {
  handle_bus_errors();
  std::signal(SIGXFSZ, SIG_IGN); // a limit on the sizes of files is an error of the write, which says so
  TerminalWarnings warnings;
  c10::WarningUtils::set_warning_handler(&warnings);
  std::string place = "rora";
  try {
    const int code = run(arguments, place);
    std::cout.flush();
    return code == 0 && !std::cout ? fail(kFailure, place, "the standard output cannot be written") : code;
  } catch (const UsageError& error) {
    return fail(kWrongUsage, place, error.what());
  } catch (const c10::Error& error) {
    return fail(kFailure, place, message_of(error));
  } catch (const std::bad_alloc&) {
    return fail(kFailure, place, "out of memory");
  } catch (const std::exception& error) {
    return fail(kFailure, place, error.what());
  }
}

} // namespace rora::cli

int main(int argc, char** argv) {
  return rora::cli::guarded_run({argv + 1, argv + argc});
}
