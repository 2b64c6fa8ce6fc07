#include <cstdio>
#include <cstring>

#include <rora/error.h>

int main() {
  try {
    throw rora::FormatError("config.json", "hidden_size: expected a number");
  } catch (const std::exception& error) {
    std::puts(error.what());
    return std::strstr(error.what(), "hidden_size") == nullptr;
  }
}
