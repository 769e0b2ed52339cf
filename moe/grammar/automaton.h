// Runs a grammar over bytes. Where a text stands in a grammar is a set of threads, each with a stack; equal sets are
// one state, and what a byte does to a state is found once.
#ifndef CONCLAVE_MOE_GRAMMAR_AUTOMATON_H_
#define CONCLAVE_MOE_GRAMMAR_AUTOMATON_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "moe/grammar/program.h"

namespace conclave {

// Used by one thread.
class GrammarAutomaton {
 public:
  static constexpr int32_t kDead = -1;   // no text goes on here
  static constexpr int32_t kLimit = -2;  // beyond a limit on threads or memory

  // `program` must outlive it.
  explicit GrammarAutomaton(const GrammarProgram& program);

  // kLimit: of a program that CompileGrammar refuses.
  int32_t start() const { return start_; }
  // The state behind one more byte, kDead or kLimit. REQUIRES: a state
  int32_t Step(int32_t state, uint8_t byte) {
    const int32_t known = steps_[state * program_.byte_classes + program_.byte_class[byte]];
    return known != kUnknown ? known : Find(state, byte);
  }
  // Whether the text may end in this state.
  bool Accepts(int32_t state) const { return states_[state].accepts; }
  // Whether so much is remembered that Forget is worth its while.
  bool IsFull() const { return Threads() > kThreadsKept || states_.size() > kStatesKept; }
  // Drops all states but one; returns its new number.
  int32_t Forget(int32_t kept);
  // Equal for states of this and other automata of the program that do the same to all texts of at most `bytes` bytes.
  std::string KeyOf(int32_t state, int bytes) const;

 private:
  static constexpr int32_t kUnknown = -3;
  static constexpr size_t kVisitsMax = 1 << 12, kThreadsKept = 1 << 15, kThreadsMax = 1 << 17;
  static constexpr size_t kStatesKept = 2048, kStatesMax = 1 << 14;

  // A body under way. One that was called goes on at the instruction `at`; one of a kRepeat, which is at `at`, comes
  // after `times` others.
  static constexpr int32_t kCalled = -1;  // in place of times
  struct Frame {
    int32_t at = 0, times = kCalled, parent = 0;
    int32_t depth = 0;
    friend bool operator==(const Frame&, const Frame&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Frame& frame) {
      return H::combine(std::move(h), frame.at, frame.times, frame.parent);
    }
  };
  // Before the instruction `at`, which is a kBytes, with this innermost frame.
  using Thread = std::pair<int32_t, int32_t>;
  struct State {
    size_t begin = 0, end = 0;  // of threads_
    bool accepts = false;
  };

  size_t Threads() const { return threads_.size() + frames_.size(); }
  int32_t Find(int32_t state, uint8_t byte);
  void Enter(int32_t at, int32_t frame);
  void EnterOnce(int32_t at, int32_t frame);
  void EndBody(int32_t frame);
  void RepeatOrGoOn(int32_t at, int32_t times, int32_t parent);
  int32_t Push(int32_t at, int32_t times, int32_t parent);
  int32_t Settle();
  int32_t FollowMoves();

  const GrammarProgram& program_;
  std::vector<Frame> frames_;  // the first is that of the text
  absl::flat_hash_map<Frame, int32_t> frame_ids_;
  std::vector<Thread> threads_;
  std::vector<State> states_;
  absl::flat_hash_map<std::string, int32_t> state_ids_;  // by their threads
  std::vector<int32_t> steps_;                           // [states][byte_classes]
  int32_t start_ = 0;

  absl::flat_hash_map<std::vector<Thread>, int32_t> states_by_moves_;

  // Of the state that is being found.
  std::vector<Thread> moves_;  // where its threads begin
  std::vector<Thread> left_, found_;
  absl::flat_hash_set<Thread> seen_;
  bool accepts_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_AUTOMATON_H_
