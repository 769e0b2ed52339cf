// Sets of Unicode's characters, and the bytes that they are in UTF-8.
#ifndef CONCLAVE_MOE_GRAMMAR_CHAR_SET_H_
#define CONCLAVE_MOE_GRAMMAR_CHAR_SET_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "moe/grammar/program.h"

namespace conclave {

// Code points, less the surrogates, which are no characters.
class CharSet {
 public:
  static CharSet All();
  void Add(uint32_t low, uint32_t high);
  void Add(const CharSet& other);
  CharSet Complement() const;
  bool empty() const { return Ranges().empty(); }
  // Ascending, apart from each other, without surrogates.
  std::vector<std::pair<uint32_t, uint32_t>> Ranges() const;

 private:
  std::vector<std::pair<uint32_t, uint32_t>> ranges_;  // as they were added
};

// One character of the set, as UTF-8, then `next`.
int32_t AppendChar(GrammarBuilder& builder, const CharSet& set, int32_t next);

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_CHAR_SET_H_
