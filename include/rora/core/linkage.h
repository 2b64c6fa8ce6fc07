#pragma once

/// How the bodies of the core's functions reach a program. `foo.h` declares and `foo_inl.h` defines.
///
/// With LibTorch alone (the target rora::core), `foo.h` includes `foo_inl.h` at its end and everything is inline. With
/// the library (rora::rora defines RORA_LINKED), `foo.h` only declares, and the library compiles each `foo_inl.h` once:
/// what costs a compiler most, autograd's nodes and the dispatcher's calls, is then not made anew in every source.
#if defined(RORA_LINKED)
#define RORA_INLINE
#else
#define RORA_INLINE inline
#endif
