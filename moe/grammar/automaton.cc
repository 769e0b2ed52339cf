#include "moe/grammar/automaton.h"

#include <algorithm>

#include "moe/base/check.h"

namespace conclave {
namespace {

template <typename T>
void AppendBytes(const T& value, std::string& key) {
  key.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

GrammarAutomaton::GrammarAutomaton(const GrammarProgram& program) : program_(program) {
  frames_.push_back({});
  Enter(program.start, 0);
  start_ = Settle();
  CONCLAVE_CHECK(start_ != kDead) << "a grammar without a text";
}

int32_t GrammarAutomaton::Push(int32_t at, int32_t times, int32_t parent) {
  const Frame frame{at, times, parent, frames_[parent].depth + 1};
  const auto [entry, added] = frame_ids_.try_emplace(frame, static_cast<int32_t>(frames_.size()));
  if (added) frames_.push_back(frame);
  return entry->second;
}

// Goes from an instruction to all kBytes that can be reached without a byte.
void GrammarAutomaton::Enter(int32_t at, int32_t frame) {
  left_.emplace_back(at, frame);
  while (!left_.empty() && seen_.size() <= kVisitsMax) {
    const Thread next = left_.back();
    left_.pop_back();
    EnterOnce(next.first, next.second);
  }
}

void GrammarAutomaton::EnterOnce(int32_t at, int32_t frame) {
  // What could not be ended within the depth is not begun.
  if (frames_[frame].depth + program_.height[at] > kGrammarDepthMax) return;
  if (!seen_.emplace(at, frame).second) return;
  const GrammarInstruction& here = program_.code[at];
  switch (here.op) {
    case GrammarOp::kBytes:
      found_.emplace_back(at, frame);
      break;
    case GrammarOp::kSplit:
      left_.emplace_back(here.next, frame);
      left_.emplace_back(here.other, frame);
      break;
    case GrammarOp::kCall: {
      // Where nothing is left to do behind the body, its end is that of the body around it.
      const bool last = program_.code[here.next].op == GrammarOp::kReturn;
      left_.emplace_back(here.other, last ? frame : Push(here.next, kCalled, frame));
      break;
    }
    case GrammarOp::kRepeat:
      RepeatOrGoOn(at, 0, frame);
      break;
    case GrammarOp::kReturn:
      EndBody(frame);
      break;
    case GrammarOp::kFail:
      break;
  }
}

void GrammarAutomaton::EndBody(int32_t frame) {
  if (frame == 0) {
    accepts_ = true;
    return;
  }
  const Frame ended = frames_[frame];
  if (ended.times != kCalled) return RepeatOrGoOn(ended.at, ended.times + 1, ended.parent);
  left_.emplace_back(ended.at, ended.parent);
}

void GrammarAutomaton::RepeatOrGoOn(int32_t at, int32_t times, int32_t parent) {
  const GrammarInstruction& repeat = program_.code[at];
  if (times >= repeat.least) left_.emplace_back(repeat.next, parent);
  if (repeat.most >= 0 && times >= repeat.most) return;
  // Without an end, times beyond the least make no difference.
  left_.emplace_back(repeat.other, Push(at, repeat.most < 0 ? std::min(times, repeat.least) : times, parent));
}

// Makes a state of what was found.
int32_t GrammarAutomaton::Settle() {
  const bool beyond = !left_.empty() || seen_.size() > kVisitsMax;
  left_.clear();
  seen_.clear();
  std::sort(found_.begin(), found_.end());
  const bool accepts = std::exchange(accepts_, false);
  const std::vector<Thread> found = std::exchange(found_, {});
  if (beyond) return kLimit;
  if (found.empty() && !accepts) return kDead;
  std::string key(1, accepts ? '1' : '0');
  for (const Thread& thread : found) AppendBytes(thread, key);
  const auto [entry, added] = state_ids_.try_emplace(std::move(key), static_cast<int32_t>(states_.size()));
  if (!added) return entry->second;
  if (Threads() > kThreadsMax || states_.size() >= kStatesMax) {
    state_ids_.erase(entry);
    return kLimit;
  }
  State& state = states_.emplace_back();
  state.begin = threads_.size();
  threads_.insert(threads_.end(), found.begin(), found.end());
  state.end = threads_.size();
  state.accepts = accepts;
  steps_.resize(steps_.size() + program_.byte_classes, kUnknown);
  return static_cast<int32_t>(states_.size()) - 1;
}

int32_t GrammarAutomaton::Find(int32_t state, uint8_t byte) {
  const State from = states_[state];
  int low = 0, high = 255;  // bytes that all threads treat like this one
  moves_.clear();
  for (size_t i = from.begin; i < from.end; ++i) {
    const Thread thread = threads_[i];
    const GrammarInstruction& here = program_.code[thread.first];
    if (byte < here.low) {
      high = std::min(high, here.low - 1);
    } else if (byte > here.high) {
      low = std::max(low, here.high + 1);
    } else {
      low = std::max<int>(low, here.low);
      high = std::min<int>(high, here.high);
      moves_.emplace_back(here.next, thread.second);
    }
  }
  const int32_t next = FollowMoves();
  const auto begin = steps_.begin() + state * program_.byte_classes;
  std::fill(begin + program_.byte_class[low], begin + program_.byte_class[high] + 1, next);
  return next;
}

// The state that moves_ lead to, whatever state they come from.
int32_t GrammarAutomaton::FollowMoves() {
  if (const auto known = states_by_moves_.find(moves_); known != states_by_moves_.end()) return known->second;
  for (const auto& [at, frame] : moves_) Enter(at, frame);
  const int32_t next = Settle();
  states_by_moves_.emplace(moves_, next);
  return next;
}

int32_t GrammarAutomaton::Forget(int32_t kept) {
  const State state = states_[kept];
  const std::vector<Thread> threads(threads_.begin() + static_cast<int64_t>(state.begin),
                                    threads_.begin() + static_cast<int64_t>(state.end));
  const std::vector<Frame> frames = std::exchange(frames_, {Frame{}});
  frame_ids_.clear();
  threads_.clear();
  states_.clear();
  state_ids_.clear();
  states_by_moves_.clear();
  steps_.clear();
  Enter(program_.start, 0);
  start_ = Settle();
  std::vector<Frame> path;
  for (const Thread& thread : threads) {
    path.clear();
    for (int32_t frame = thread.second; frame != 0; frame = frames[frame].parent) path.push_back(frames[frame]);
    int32_t frame = 0;
    for (auto at = path.rbegin(); at != path.rend(); ++at) frame = Push(at->at, at->times, frame);
    found_.emplace_back(thread.first, frame);
  }
  accepts_ = state.accepts;
  return Settle();
}

std::string GrammarAutomaton::KeyOf(int32_t state, int bytes) const {
  const State& of = states_[state];
  std::string key(1, of.accepts ? '1' : '0');
  absl::flat_hash_map<int32_t, int32_t> numbers;  // of frames, in the order in which threads name them
  const auto near = [bytes](int32_t left) { return std::clamp(left, 0, bytes + 1); };
  for (size_t i = of.begin; i < of.end; ++i) {
    AppendBytes(threads_[i].first, key);
    int32_t frame = threads_[i].second;
    for (; frame != 0; frame = frames_[frame].parent) {
      const auto [entry, added] = numbers.try_emplace(frame, static_cast<int32_t>(numbers.size()));
      AppendBytes(entry->second, key);
      if (!added) break;
      const Frame& here = frames_[frame];
      AppendBytes(here.times == kCalled ? here.at : ~here.at, key);
      if (here.times == kCalled) continue;
      const GrammarInstruction& at = program_.code[here.at];
      // A body takes a byte at least: how far away a count is matters no further than bytes go.
      AppendBytes(near(at.least - here.times), key);
      AppendBytes(at.most < 0 ? bytes + 1 : near(at.most - here.times), key);
    }
    AppendBytes(int32_t{-1}, key);
  }
  return key;
}

}  // namespace conclave
