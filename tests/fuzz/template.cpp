#include "fuzz_case.h"

#include <rora/text/chat_template.h>

using namespace rora;

/// A template: refused with its place, or rendered, or stopped, for chats with and without tools.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<ChatMessage> messages = {
      {"system", " Be kind.\n"},
      {"user", "Hello <|im_start|> \xC3\xA9\xF0\x9F\x98\x80"},
      {"assistant", "", R"({"content": null, "tool_calls": [{"id": "abcdefghi", "function": {"name": "f", "arguments":
                            {"x": [1, 2.5, true, null, "a"]}}}]})"},
      {"tool", "3"},
      {"assistant", "<think>\nhm\n</think>\nYes."}};
  fuzz::read_or_refuse("x.jinja", [&] {
    const ChatTemplate chat_template(
        std::string(fuzz::as_text(data, size)), "x.jinja", {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
    for (const bool with_tools : {false, true}) {
      try {
        const RenderedChat chat = chat_template.render(
            messages,
            RenderOptions().now(0).add_generation_prompt(with_tools).tools(with_tools ? R"([{"name": "f"}])" : ""));
        size_t end = 0;
        for (const auto& [from, to] : chat.generated) {
          if (from < end || to < from || to > chat.text.size()) {
            fuzz::fail("spans out of order or outside of the text");
          }
          end = to;
        }
      } catch (const c10::ValueError& error) {
        fuzz::check_message(one_line(error.what_without_backtrace()), "x.jinja");
      }
    }
  });
  return 0;
}
