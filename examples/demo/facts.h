#pragma once

#include <rora/data/record.h>

#include <cstdint>
#include <vector>

namespace rora::demo {

/// Facts that nobody could guess: where each of `people` keeps each of `things_each` things, drawn at random. A record
/// asks for one, "Where does Mia keep the apples?", and its answer is a place, "in the barn". A model that has not been
/// taught them is right by chance once in as many times as there are places.
std::vector<Record> make_facts(uint64_t seed, int64_t people, int64_t things_each);

} // namespace rora::demo
