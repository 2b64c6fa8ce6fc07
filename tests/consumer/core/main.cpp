#include <ATen/Functions.h>

#include <rora/error.h>

int main() {
  return at::ones({2, 3}).sum().item<float>() == 6 ? 0 : 1;
}
