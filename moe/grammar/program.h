// A grammar over bytes, as a program of a small machine with a stack: what every format of an answer is compiled to.
#ifndef CONCLAVE_MOE_GRAMMAR_PROGRAM_H_
#define CONCLAVE_MOE_GRAMMAR_PROGRAM_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave {

// Frames that a text may have open at once: what bounds how deep a recursive grammar may nest.
inline constexpr int kGrammarDepthMax = 128;
// A program's instructions.
inline constexpr int kGrammarInstructionsMax = 1 << 17;

enum class GrammarOp : uint8_t {
  kBytes,   // takes one byte in [low, high] and goes to next
  kSplit,   // goes to next and to other
  kCall,    // runs the body that begins at other, then goes to next
  kRepeat,  // runs the body that begins at other so many times, then goes to next
  kReturn,  // ends a body, or the text
  kFail,    // goes nowhere
};

// One step of the machine.
struct GrammarInstruction {
  GrammarOp op = GrammarOp::kFail;
  uint8_t low = 0, high = 0;
  int32_t next = 0;
  int32_t other = 0;
  int32_t least = 0, most = 0;  // of kRepeat; most -1: no end
};

// Immutable, so thread-safe.
struct GrammarProgram {
  std::vector<GrammarInstruction> code;
  int32_t start = 0;
  // Of each instruction: frames that must at least be opened on the way from it to the end of its body. Above
  // kGrammarDepthMax: there is no such way.
  std::vector<int32_t> height;
  // Bytes that no instruction tells apart have the same class.
  std::array<uint8_t, 256> byte_class{};
  int byte_classes = 0;
};

// Builds a program from its end to its beginning: every part is told where it goes on, and says where it begins.
// Parts beyond kGrammarInstructionsMax are not built; Finish tells of it.
class GrammarBuilder {
 public:
  GrammarBuilder();
  int32_t Return() const { return 0; }
  int32_t Fail() const { return 1; }
  // [low, high]
  int32_t Bytes(uint8_t low, uint8_t high, int32_t next);
  int32_t Byte(char byte, int32_t next);
  int32_t Literal(absl::string_view text, int32_t next);
  // One of `texts`, of which those that begin alike are one path.
  int32_t Literals(std::vector<std::string> texts, int32_t next);
  int32_t Split(int32_t one, int32_t other);
  // A body that can be called before it is known. It must end in Return().
  int32_t NewRule();
  void SetRule(int32_t rule, int32_t begin);
  int32_t Call(int32_t rule, int32_t next);
  // The rule least to most times; most -1: no end. REQUIRES: the rule takes at least one byte, or least is 0 and most
  // -1
  int32_t Repeat(int32_t rule, int32_t least, int32_t most, int32_t next);
  int32_t Optional(int32_t one, int32_t next) { return Split(one, next); }

  // INVALID_ARGUMENT: too large, or there is no text at all, or none within kGrammarDepthMax.
  absl::StatusOr<GrammarProgram> Finish(int32_t start);

 private:
  int32_t Add(const GrammarInstruction& instruction);
  int32_t LiteralsFrom(absl::Span<const std::string> texts, size_t at, int32_t next);

  std::vector<GrammarInstruction> code_;
  std::vector<int32_t> rules_;  // where each begins
  bool too_large_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_PROGRAM_H_
