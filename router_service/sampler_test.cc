#include "router_service/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "moe/kernels/accelerator/host_ops.h"
#include "router_service/philox.h"

namespace conclave {
namespace {

// The published known answers (Random123, tests/kat_vectors, "philox4x32 10").
TEST(PhiloxTest, GivesThePublishedKnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(Philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformTest, IsTheTop24BitsOfThePublishedAnswer) {
  EXPECT_EQ(UniformAt(0, 0, 0), static_cast<float>(0x6627e8d5 >> 8) / 16777216.0f);
}

TEST(UniformTest, ChangesWithEachOfSeedPositionAndChoiceAndStaysBelowOne) {
  std::set<float> seen;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
    for (int64_t position : {int64_t{0}, int64_t{1}, int64_t{1} << 32}) {
      for (int choice : {0, 1, 7}) {
        const float value = UniformAt(seed, position, choice);
        EXPECT_GE(value, 0.0f);
        EXPECT_LT(value, 1.0f);
        EXPECT_EQ(value, UniformAt(seed, position, choice));
        seen.insert(value);
      }
    }
  }
  EXPECT_EQ(seen.size(), 36u);
}

TEST(ExpTest, IsWithinAFewUnitsInTheLastPlaceOfTheLibrarys) {
  EXPECT_EQ(token_draw::ExpOfNonPositive(0.0), 1.0);
  EXPECT_EQ(token_draw::ExpOfNonPositive(-1e300), 0.0);
  EXPECT_EQ(token_draw::ExpOfNonPositive(-701.0), 0.0);
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-8, 2.8);
  for (int i = 0; i < 200000; ++i) {
    const double x = -std::pow(10.0, exponent(random));
    EXPECT_NEAR(token_draw::ExpOfNonPositive(x) / std::exp(x), 1.0, 4e-16 * 2) << x;
  }
}

TEST(SamplerTest, GreedyTakesTheLargestLogitAndTheLowestIdAmongEquals) {
  Sampler sampler(5);
  EXPECT_EQ(*sampler.Sample({0.0f, 3.0f, -1.0f, 3.0f, 2.0f}, {}, 0), 1);
  EXPECT_EQ(*sampler.Sample({-5.0f, -4.0f, -3.0f, -2.0f, -1.0f}, {}, 0), 4);
  EXPECT_EQ(*sampler.Sample({-0.0f, 0.0f, 0.0f, -0.0f, 0.0f}, {}, 0), 0);
}

TEST(SamplerTest, TopKOfOneIsGreedyAtAnyTemperature) {
  Sampler sampler(4);
  for (int64_t position = 0; position < 200; ++position) {
    EXPECT_EQ(*sampler.Sample({1.0f, 1.1f, 1.1f, 0.9f}, {.temperature = 5.0f, .top_k = 1, .seed = 3}, position), 1);
  }
}

TEST(SamplerTest, NamesTheTokenWhoseLogitIsNotANumber) {
  Sampler sampler(3);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    for (float temperature : {0.0f, 0.8f}) {
      const auto sampled = sampler.Sample({0.0f, 1.0f, bad}, {.temperature = temperature}, 17);
      EXPECT_EQ(sampled.status().code(), absl::StatusCode::kInternal);
      EXPECT_NE(sampled.status().message().find("token 2 at position 17"), std::string::npos) << sampled.status();
    }
  }
}

std::vector<float> RandomLogits(int vocab, uint64_t seed, float spread) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The definition, without shortcuts, as the oracle of what devices compute has it.
int32_t SampleByDefinition(std::vector<float> logits, const SamplingParams& params, int64_t position,
                           const TokenHistory& history) {
  TokenDraw draw;
  draw.temperature = params.temperature;
  draw.top_p = params.top_p;
  draw.min_p = params.min_p;
  draw.uniform = UniformAt(params.seed, position, params.choice);
  draw.top_k = params.top_k;
  draw.repetition_penalty = params.repetition_penalty;
  draw.presence_penalty = params.presence_penalty;
  draw.frequency_penalty = params.frequency_penalty;
  draw.changes = static_cast<int32_t>(history.changes().size());
  int32_t id = -1;
  DrawArgs args;
  args.x = logits.data();
  args.draws = &draw;
  std::vector<LogitChange> changes(history.changes().begin(), history.changes().end());
  args.tables = reinterpret_cast<int32_t*>(changes.data());
  args.ids = &id;
  args.rows = 1;
  args.cols = static_cast<int64_t>(logits.size());
  host_ops::DrawTokens(args);
  return id;
}

TEST(SamplerTest, AgreesWithTheDefinitionForEveryCombinationOfCuts) {
  for (int vocab : {1, 2, 7, 1000, 8192}) {
    Sampler sampler(vocab);
    for (float spread : {0.0f, 0.1f, 3.0f, 40.0f}) {
      const auto logits = RandomLogits(vocab, vocab, spread);
      for (float temperature : {1e-6f, 0.5f, 1.0f, 30.0f, 1e30f}) {
        for (int top_k : {0, 2, 50, 100000}) {
          for (float top_p : {1.0f, 0.9f, 0.3f, 1e-6f}) {
            for (int64_t position = 0; position < 3; ++position) {
              const SamplingParams params{.temperature = temperature, .top_p = top_p, .top_k = top_k, .seed = 11};
              EXPECT_EQ(*sampler.Sample(logits, params, position),
                        SampleByDefinition(logits, params, position, TokenHistory({}, {})))
                  << vocab << " " << spread << " " << temperature << " " << top_k << " " << top_p;
            }
          }
        }
      }
    }
  }
}

TEST(SamplerTest, AgreesWithTheDefinitionWhateverIsAsked) {
  constexpr int kVocab = 500;
  std::mt19937_64 random(3);
  const auto one_of = [&](std::vector<float> values) { return values[random() % values.size()]; };
  Sampler sampler(kVocab);
  for (int run = 0; run < 500; ++run) {
    SamplingParams params{.temperature = one_of({0.0f, 0.7f, 1.0f, 4.0f}), .top_p = one_of({1.0f, 0.95f, 0.5f}),
                          .top_k = static_cast<int>(random() % 3) * 20, .seed = random()};
    params.min_p = one_of({0.0f, 0.02f, 0.4f, 1.0f});
    params.repetition_penalty = one_of({1.0f, 1.3f, 0.8f});
    params.presence_penalty = one_of({0.0f, 0.5f});
    params.frequency_penalty = one_of({0.0f, -0.25f, 1.0f});
    std::vector<int32_t> prompt, generated;
    for (int i = 0; i < 30; ++i) prompt.push_back(static_cast<int32_t>(random() % kVocab));
    for (int i = 0; i < 30; ++i) generated.push_back(static_cast<int32_t>(random() % 60));
    for (int32_t id = 0; id < kVocab; id += 1 + random() % 100)
      params.logit_bias.emplace_back(id, one_of({5.0f, -2.0f}));
    const TokenHistory history(prompt, generated, params.logit_bias);
    const auto logits = RandomLogits(kVocab, run, one_of({0.5f, 2.0f, 10.0f}));
    EXPECT_EQ(*sampler.Sample(logits, params, run, &history), SampleByDefinition(logits, params, run, history)) << run;
  }
}

TEST(SamplerTest, MinPKeepsWhatHasItsShareOfTheMostLikely) {
  // Probabilities 0.4, 0.3, 0.2, 0.1 by id 2, 0, 3, 1; shares of the largest 1, 0.75, 0.5, 0.25.
  const std::vector<float> logits = {std::log(0.3f), std::log(0.1f), std::log(0.4f), std::log(0.2f)};
  Sampler sampler(4);
  const auto drawn = [&](SamplingParams params) {
    std::set<int32_t> ids;
    params.temperature = 1.0f;
    for (int64_t position = 0; position < 2000; ++position) ids.insert(*sampler.Sample(logits, params, position));
    return ids;
  };
  EXPECT_EQ(drawn({.min_p = 0.2f}), (std::set<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(drawn({.min_p = 0.3f}), (std::set<int32_t>{0, 2, 3}));
  EXPECT_EQ(drawn({.min_p = 0.7f}), (std::set<int32_t>{0, 2}));
  EXPECT_EQ(drawn({.min_p = 1.0f}), (std::set<int32_t>{2}));
  EXPECT_EQ(drawn({.top_k = 1, .min_p = 0.2f}), (std::set<int32_t>{2}));
  // top_p is taken of what min_p has left: 0.4 / 0.7 > 0.5.
  EXPECT_EQ(drawn({.top_p = 0.5f, .min_p = 0.7f}), (std::set<int32_t>{2}));
}

TEST(SamplerTest, TheBiasIsAddedBeforeThePenalties) {
  Sampler sampler(3);
  SamplingParams params;
  params.logit_bias = {{1, 2.5f}, {2, -100.0f}};
  EXPECT_EQ(*sampler.Sample({2.0f, 0.0f, 90.0f}, params, 0), 1);
  // 1's logit is 0 + 2.5, then 2.5 / 1.5 = 1.67; were it penalised first, it would stay at 2.5.
  params.repetition_penalty = 1.5f;
  const TokenHistory history({1}, {});
  EXPECT_EQ(*sampler.Sample({2.0f, 0.0f, 90.0f}, params, 0, &history), 0);
}

TEST(SamplerTest, TheRepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOfPromptAndAnswer) {
  Sampler sampler(3);
  SamplingParams params;
  params.repetition_penalty = 2.0f;
  const TokenHistory prompt({0, 0}, {}), answer({}, {0});
  EXPECT_EQ(*sampler.Sample({2.0f, 1.1f, 0.0f}, params, 0, &prompt), 1);
  EXPECT_EQ(*sampler.Sample({2.0f, 1.1f, 0.0f}, params, 0, &answer), 1);
  EXPECT_EQ(*sampler.Sample({2.0f, 0.9f, 0.0f}, params, 0, &prompt), 0) << "once, however often it stands there";
  EXPECT_EQ(*sampler.Sample({-1.0f, -1.9f, -3.0f}, params, 0, &prompt), 1);
  params.repetition_penalty = 0.5f;
  EXPECT_EQ(*sampler.Sample({1.0f, 1.9f, 0.0f}, params, 0, &prompt), 0) << "below one it encourages";
  params.repetition_penalty = 1e-38f;
  EXPECT_EQ(*sampler.Sample({3.0f, 1.0f, 0.0f}, params, 0, &prompt), 0) << "beyond the finite numbers";
}

TEST(SamplerTest, PresenceCountsOnceAndFrequencyEveryTimeAndOnlyInTheAnswer) {
  Sampler sampler(2);
  SamplingParams presence, frequency;
  presence.presence_penalty = 1.0f;
  frequency.frequency_penalty = 1.0f;
  const TokenHistory prompt({0, 0, 0}, {});
  EXPECT_EQ(*sampler.Sample({1.0f, 0.9f}, presence, 0, &prompt), 0);
  EXPECT_EQ(*sampler.Sample({1.0f, 0.9f}, frequency, 0, &prompt), 0);
  TokenHistory answer({}, {0});
  EXPECT_EQ(*sampler.Sample({2.0f, 1.1f}, presence, 0, &answer), 1);
  EXPECT_EQ(*sampler.Sample({2.0f, 0.9f}, presence, 0, &answer), 0);
  answer.AddGenerated(0);
  EXPECT_EQ(*sampler.Sample({2.0f, 0.9f}, presence, 0, &answer), 0);
  EXPECT_EQ(*sampler.Sample({2.0f, 0.1f}, frequency, 0, &answer), 1);
  frequency.frequency_penalty = -2.0f;
  EXPECT_EQ(*sampler.Sample({0.0f, 3.9f}, frequency, 0, &answer), 0) << "a negative one encourages";
}

TEST(SamplerTest, NeverChoosesAForbiddenId) {
  Sampler sampler(4);
  const std::vector<int32_t> forbidden = {0, 2};
  EXPECT_EQ(*sampler.Sample({9.0f, 1.0f, 8.0f, 2.0f}, {}, 0, nullptr, forbidden), 3);
  std::set<int32_t> ids;
  for (int64_t position = 0; position < 1000; ++position) {
    ids.insert(*sampler.Sample({9.0f, 1.0f, 8.0f, 2.0f}, {.temperature = 50.0f}, position, nullptr, forbidden));
  }
  EXPECT_EQ(ids, (std::set<int32_t>{1, 3}));
  EXPECT_EQ(sampler.Sample({9.0f, 1.0f, 8.0f, 2.0f}, {}, 0, nullptr, {0, 1, 2, 3}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SamplerTest, ChoosesOnlyAllowedIds) {
  Sampler sampler(4);
  const std::vector<uint32_t> allowed = {0b1010};
  EXPECT_EQ(*sampler.Sample({9.0f, 1.0f, 8.0f, 2.0f}, {}, 0, nullptr, {}, allowed), 3);
  for (int position = 0; position < 20; ++position) {
    const SamplingParams warm{.temperature = 50.0f, .top_p = 0.9f, .seed = 3};
    EXPECT_EQ(*sampler.Sample({9.0f, 1.0f, 8.0f, 2.0f}, warm, position, nullptr, {}, allowed),
              *sampler.Sample({9.0f, 1.0f, 8.0f, 2.0f}, warm, position, nullptr, std::vector<int32_t>{0, 2}));
  }
  const std::vector<uint32_t> none = {0b10000};
  EXPECT_FALSE(sampler.Sample({9.0f, 1.0f, 8.0f, 2.0f}, {}, 0, nullptr, {}, none).ok());
}

TEST(SamplerTest, ParametersThatChangeNothingLeaveTheDrawAsItWas) {
  Sampler sampler(300);
  const TokenHistory history({1, 2, 3}, {4, 4});
  for (int64_t position = 0; position < 50; ++position) {
    const auto logits = RandomLogits(300, position, 2.0f);
    SamplingParams params{.temperature = 0.9f, .top_p = 0.9f, .seed = 4};
    const int32_t plain = *sampler.Sample(logits, params, position);
    params.logit_bias = {{5, 0.0f}};
    params.min_p = 1e-30f;
    EXPECT_EQ(*sampler.Sample(logits, params, position, &history), plain);
  }
}

// Chi-squared against softmax: 15 degrees of freedom, where 44 is passed once in 10,000 runs; the numbers are fixed.
TEST(SamplerTest, DrawsWithTheProbabilitiesOfTheSoftmax) {
  constexpr int kVocab = 16, kDraws = 100000;
  const auto logits = RandomLogits(kVocab, 5, 1.0f);
  const SamplingParams params{.temperature = 0.8f, .seed = 42};
  double total = 0;
  std::vector<double> expected(kVocab);
  for (int id = 0; id < kVocab; ++id) total += expected[id] = std::exp(logits[id] / 0.8);
  std::vector<int> count(kVocab);
  Sampler sampler(kVocab);
  for (int64_t position = 0; position < kDraws; ++position) ++count[*sampler.Sample(logits, params, position)];
  double chi_squared = 0;
  for (int id = 0; id < kVocab; ++id) {
    const double mean = kDraws * expected[id] / total;
    chi_squared += (count[id] - mean) * (count[id] - mean) / mean;
  }
  EXPECT_LT(chi_squared, 44.3);
  EXPECT_GT(chi_squared, 2.0) << "too good to be random";
}

TEST(SamplerTest, TopKAndTopPNeverDrawWhatTheyCut) {
  // Probabilities 0.4, 0.3, 0.2, 0.1 by id 2, 0, 3, 1.
  const std::vector<float> logits = {std::log(0.3f), std::log(0.1f), std::log(0.4f), std::log(0.2f)};
  Sampler sampler(4);
  const auto drawn = [&](SamplingParams params) {
    std::set<int32_t> ids;
    params.temperature = 1.0f;
    for (int64_t position = 0; position < 2000; ++position) ids.insert(*sampler.Sample(logits, params, position));
    return ids;
  };
  EXPECT_EQ(drawn({}), (std::set<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(drawn({.top_k = 2}), (std::set<int32_t>{0, 2}));
  EXPECT_EQ(drawn({.top_p = 0.65f}), (std::set<int32_t>{0, 2}));
  EXPECT_EQ(drawn({.top_p = 0.75f}), (std::set<int32_t>{0, 2, 3}));
  EXPECT_EQ(drawn({.top_p = 0.01f}), (std::set<int32_t>{2}));
  // top_p is taken of what top_k has left: 0.4 / 0.7 > 0.5.
  EXPECT_EQ(drawn({.top_p = 0.5f, .top_k = 2}), (std::set<int32_t>{2}));
}

TEST(SamplerTest, DoesNotDependOnWhatWasSampledBefore) {
  Sampler busy(512), fresh(512);
  const SamplingParams params{.temperature = 0.8f, .top_p = 0.95f, .seed = 9};
  for (int64_t position = 0; position < 100; ++position) {
    const auto logits = RandomLogits(512, position, 2.0f);
    ASSERT_TRUE(busy.Sample(RandomLogits(512, 1000 + position, 30.0f), {.temperature = 7.0f}, position).ok());
    EXPECT_EQ(*busy.Sample(logits, params, position), *fresh.Sample(logits, params, position));
  }
}

TEST(SamplingParamsTest, NamesTheFieldThatIsOutOfRange) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto expect_names = [](const SamplingParams& params, const std::string& field) {
    const absl::Status status = params.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_EQ(status.message().substr(0, field.size()), field) << status;
  };
  for (float bad : {nan, -0.1f, infinity, -infinity}) expect_names({.temperature = bad}, "temperature");
  for (float bad : {nan, 0.0f, -1.0f, 1.001f, infinity}) expect_names({.top_p = bad}, "top_p");
  expect_names({.top_k = -1}, "top_k");
  expect_names({.choice = -1}, "choice");
  for (float bad : {nan, -0.1f, 1.1f}) expect_names({.min_p = bad}, "min_p");
  for (float bad : {nan, 0.0f, -1.0f, infinity}) expect_names({.repetition_penalty = bad}, "repetition_penalty");
  for (float bad : {nan, -2.1f, 2.1f, infinity}) {
    expect_names({.presence_penalty = bad}, "presence_penalty");
    expect_names({.frequency_penalty = bad}, "frequency_penalty");
    if (bad == bad && !std::isinf(bad)) bad *= 50;
    expect_names({.logit_bias = {{3, bad}}}, "logit_bias[3]");
  }
  expect_names({.logit_bias = std::vector<std::pair<int32_t, float>>(5000)}, "logit_bias has 5000");
  EXPECT_TRUE(SamplingParams{}.Validate().ok());
  EXPECT_TRUE((SamplingParams{.temperature = 2.0f, .top_p = 1e-9f, .top_k = 1 << 30}.Validate().ok()));
}

}  // namespace
}  // namespace conclave
