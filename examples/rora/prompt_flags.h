#pragma once

#include "flags.h"

#include <rora/data/dataset.h>

#include <ctime>
#include <filesystem>
#include <iosfwd>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// How prompts and chats are written, once it is settled.
struct Prompts {
  std::optional<ChatTemplate> chat_template;
  PromptFormat format = PromptFormat::kAlpaca; ///< kChat or kAlpaca
  std::string day; ///< that templates may tell, as 2024-07-26
  std::optional<std::time_t> now; ///< its noon

  /// Whether a record is written by the template.
  bool is_chat(const Record& record) const {
    return record.kind == RecordKind::kChat ||
        (record.kind == RecordKind::kCompletion && format == PromptFormat::kChat);
  }
  /// The template where prompts are chats, else nothing.
  std::optional<ChatTemplate> of_prompts() const {
    return format == PromptFormat::kChat ? chat_template : std::nullopt;
  }
  /// "as chats, by chat_template.jinja of MODEL".
  std::string text() const;
  Json json() const;
};

/// The flags that say how prompts and chats are written.
struct PromptFlags {
  std::string chat_template = "auto";
  PromptFormat prompt_format = PromptFormat::kAuto;
  std::optional<std::string> chat_date;
  std::vector<std::string> columns;

  void add_template(Flags& flags);
  void add_format(Flags& flags);
  void add_columns(Flags& flags);

  /// What --columns says keys are called. Throws `UsageError` for what is no KEY=COLUMN.
  std::map<std::string, std::string> column_names() const;

  /// The template that is asked for, else what the adapter was trained with, which is kept beside it, else the one of
  /// the model's folder; prompts are chats where there is one, unless a flag or the adapter says otherwise. Throws
  /// `UsageError` for chats without a template, and what `load_chat_template` throws.
  Prompts resolve(
      const std::filesystem::path& model, const std::optional<std::string>& adapter, const Tokenizer* tokenizer) const;
};

/// How an adapter was trained, by its run.json or as it has a template of its own; kAuto where nothing says so.
PromptFormat format_of_adapter(const std::filesystem::path& adapter);

/// The day that the run in that folder noted, if there is one: a run that goes on keeps it.
std::optional<std::string> day_of_run(const std::filesystem::path& run);

/// Takes the template that the tokenizer's tokens point to, and says so, where there is none and `needed`.
void guess_chat_template(Prompts& prompts, bool needed, const Tokenizer& tokenizer, std::ostream& out);

} // namespace rora::cli
