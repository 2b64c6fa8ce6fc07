#pragma once

#include "flags.h"

#include <functional>

namespace rora::cli {

/// What a subcommand does once its flags are parsed. Returns the exit code; throws for whatever goes wrong.
using Run = std::function<int()>;

/// One subcommand: `add` adds its flags, which live as long as the program, and returns what it does.
struct Command {
  const char* name;
  const char* summary;
  Run (*add)(Flags& flags);
};

Run add_average(Flags& flags);
Run add_bench(Flags& flags);
Run add_chat(Flags& flags);
Run add_combine(Flags& flags);
Run add_convert(Flags& flags);
Run add_evaluate(Flags& flags);
Run add_finetune(Flags& flags);
Run add_generate(Flags& flags);
Run add_inspect(Flags& flags);
Run add_merge(Flags& flags);
Run add_pretrain(Flags& flags);
Run add_prune(Flags& flags);
Run add_sweep(Flags& flags);
Run add_theory(Flags& flags);
Run add_tokenize(Flags& flags);

} // namespace rora::cli
