#include "prompt_flags.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/json_object.h>
#include <rora/data/record.h>

#include <c10/util/Exception.h>

#include <array>
#include <ostream>

namespace rora::cli {
namespace {

namespace fs = std::filesystem;

const char* name_of(PromptFormat format) {
  return format == PromptFormat::kChat ? "chat" : "alpaca";
}

/// Noon of a day, in local time. Throws `UsageError`.
std::time_t noon_of(const std::string& date) {
  std::tm day{};
  const char* const end = ::strptime(date.c_str(), "%Y-%m-%d", &day);
  if (end == nullptr || *end != '\0') {
    throw UsageError("--chat-date: expected a day such as 2024-07-26, found '" + date + "'");
  }
  day.tm_hour = 12;
  day.tm_isdst = -1;
  const std::tm asked = day;
  const std::time_t noon = std::mktime(&day); // which takes February 31 for a day of March
  if (day.tm_mday != asked.tm_mday || day.tm_mon != asked.tm_mon || asked.tm_year < 0) {
    throw UsageError("--chat-date: there is no day '" + date + "' since 1900");
  }
  return noon;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 16> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d", &local);
  return text.data();
}

/// A text that a run has noted of its prompts in run.json; empty where it has not.
std::string noted(const fs::path& folder, const std::string& field) {
  std::error_code ignored;
  if (!fs::exists(folder / "run.json", ignored)) {
    return "";
  }
  const JsonObject run = JsonObject::read(folder / "run.json");
  return run.is_object("prompts") ? run.object("prompts").string(field, "") : "";
}

/// How an adapter's prompts were written, if its run has noted it.
PromptFormat format_of_run(const fs::path& adapter) {
  const std::string format = noted(adapter, "format");
  return format == "chat" ? PromptFormat::kChat : (format == "alpaca" ? PromptFormat::kAlpaca : PromptFormat::kAuto);
}

/// The template that is kept beside an adapter, if there is one.
std::optional<fs::path> own_template(const fs::path& adapter) {
  std::error_code ignored;
  const fs::path file = adapter / "chat_template.jinja";
  return fs::exists(file, ignored) ? std::make_optional(file) : std::nullopt;
}

} // namespace

std::string Prompts::text() const {
  const std::string by = chat_template ? "by " + chat_template->origin() : "";
  return format == PromptFormat::kChat ? "as chats, " + by : "as text" + (by.empty() ? "" : "; chats " + by);
}

Json Prompts::json() const {
  Json json{{"format", name_of(format)}, {"chat_template", nullptr}};
  if (chat_template) {
    json["chat_template"] = chat_template->origin();
    json["chat_date"] = day;
  }
  return json;
}

void PromptFlags::add_template(Flags& flags) {
  flags.add(
      "chat-template", chat_template,
      "How chats are written: llama2, llama3, chatml, a name of the model's list or a file of Jinja; auto: as the "
      "adapter was trained, else by the model's folder");
  flags.add("chat-date", chat_date, "The day, as 2024-07-26, that a chat template may tell (default: today)");
}

void PromptFlags::add_format(Flags& flags) {
  flags.choice<PromptFormat>(
      "prompt-format", prompt_format,
      {{"auto", PromptFormat::kAuto}, {"chat", PromptFormat::kChat}, {"alpaca", PromptFormat::kAlpaca}},
      "How alpaca and prompt-completion records are written: as chats, or as text (alpaca); auto: as the adapter was "
      "trained, else as chats where the model has a chat template");
}

void PromptFlags::add_columns(Flags& flags) {
  flags.add(
      "columns", columns,
      "What keys of records are called in the data, as instruction=question,output=answer (default: their own names)",
      ',');
}

std::map<std::string, std::string> PromptFlags::column_names() const {
  std::map<std::string, std::string> names;
  for (const std::string& each : columns) {
    const size_t equals = each.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == each.size()) {
      throw UsageError("--columns: expected KEY=COLUMN, found '" + each + "'");
    }
    const std::string key = each.substr(0, equals);
    if (!names.emplace(key, each.substr(equals + 1)).second) {
      throw UsageError("--columns: '" + key + "' is given twice");
    }
  }
  try {
    check_columns(names);
  } catch (const c10::ValueError& error) {
    throw UsageError(std::string("--") + error.what_without_backtrace());
  }
  return names;
}

Prompts PromptFlags::resolve(
    const fs::path& model, const std::optional<std::string>& adapter, const Tokenizer* tokenizer) const {
  Prompts prompts;
  if (chat_template != "auto") {
    prompts.chat_template = load_chat_template(chat_template, model, tokenizer);
  } else if (const auto own = adapter ? own_template(*adapter) : std::nullopt) {
    prompts.chat_template = ChatTemplate(read_file(*own), *own, read_special_tokens(model, tokenizer));
  } else {
    prompts.chat_template = load_chat_template(model, tokenizer);
  }
  prompts.format = prompt_format;
  if (prompts.format == PromptFormat::kAuto && adapter && chat_template == "auto") {
    prompts.format = format_of_adapter(*adapter);
  }
  if (prompts.format == PromptFormat::kAuto) {
    prompts.format = prompts.chat_template ? PromptFormat::kChat : PromptFormat::kAlpaca;
  }
  if (prompts.format == PromptFormat::kChat && !prompts.chat_template) {
    throw UsageError(
        "--prompt-format chat: " + model.string() + " has no chat template; --chat-template names or holds one");
  }
  prompts.day = chat_date.value_or(today());
  prompts.now = noon_of(prompts.day);
  if (prompts.chat_template) {
    prompts.chat_template = prompts.chat_template->at(*prompts.now);
  }
  return prompts;
}

PromptFormat format_of_adapter(const fs::path& adapter) {
  const PromptFormat noted_format = format_of_run(adapter);
  return noted_format == PromptFormat::kAuto && own_template(adapter) ? PromptFormat::kChat : noted_format;
}

std::optional<std::string> day_of_run(const fs::path& run) {
  const std::string day = noted(run, "chat_date");
  return day.empty() ? std::nullopt : std::make_optional(day);
}

void guess_chat_template(Prompts& prompts, bool needed, const Tokenizer& tokenizer, std::ostream& out) {
  if (needed && !prompts.chat_template) {
    prompts.chat_template = default_chat_template(tokenizer).at(prompts.now.value_or(std::time(nullptr)));
    out << "the model's folder has no chat template: chats are written as " << prompts.chat_template->origin()
        << ", as far as the tokenizer's tokens tell; --chat-template says otherwise" << std::endl;
  }
}

} // namespace rora::cli
