#include "fuzz_case.h"

#include "text/pattern.h"

using namespace rora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto pattern = rora::detail::Pattern::regex(fuzz::as_text(data, size));
    for (const std::string_view text : {"Once upon a time 123\n\n  x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"}) {
      size_t end = 0;
      for (const rora::detail::Span& span : pattern.find(text)) {
        if (span.begin != end || span.end < span.begin) {
          fuzz::fail("spans that do not cover the text");
        }
        end = span.end;
      }
      if (end != text.size()) {
        fuzz::fail("spans that do not reach the end");
      }
    }
  } catch (const c10::ValueError& error) {
    fuzz::check_message(one_line(error.what_without_backtrace()), "");
  } catch (const std::runtime_error& error) {
    fuzz::check_message(one_line(error.what()), "the regular expression fails");
  }
  return 0;
}
