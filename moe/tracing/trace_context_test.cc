#include "moe/tracing/trace_context.h"

#include <string>

#include "gtest/gtest.h"

namespace conclave {
namespace {

// The example of the specification, section 3.2.5.
constexpr char kExample[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceContext, ReadsAndWritesTheExampleOfTheSpecification) {
  const auto context = ParseTraceparent(kExample);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(Hex(context->trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(Hex(context->span_id), "00f067aa0ba902b7");
  EXPECT_TRUE(context->sampled);
  EXPECT_TRUE(context->remote);
  EXPECT_EQ(FormatTraceparent(*context), kExample);
}

TEST(TraceContext, OnlyTheLowestFlagSaysSampled) {
  std::string value = kExample;
  value.replace(53, 2, "fe");
  EXPECT_FALSE(ParseTraceparent(value)->sampled);
  value.replace(53, 2, "03");
  EXPECT_TRUE(ParseTraceparent(value)->sampled);
}

TEST(TraceContext, ALaterVersionIsReadAsFarAsThisOneGoes) {
  const std::string later = std::string("cc") + (kExample + 2);
  EXPECT_TRUE(ParseTraceparent(later).has_value());
  EXPECT_TRUE(ParseTraceparent(later + "-what-the-future-brings").has_value());
  EXPECT_FALSE(ParseTraceparent(later + "x").has_value());
  EXPECT_FALSE(ParseTraceparent(std::string(kExample) + "-00").has_value()) << "version 00 has one length";
}

TEST(TraceContext, MalformedValuesAreNone) {
  for (const std::string value : {
           "", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
           " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}) {
    EXPECT_FALSE(ParseTraceparent(value).has_value()) << value;
  }
}

TEST(TraceContext, EveryPrefixAndEverySingleDamageIsReadWithoutHarm) {
  const std::string example = kExample;
  for (size_t size = 0; size < example.size(); ++size) EXPECT_FALSE(ParseTraceparent(example.substr(0, size)));
  for (size_t place = 0; place < example.size(); ++place) {
    for (const char c : {'\0', '-', 'z', '\xff'}) {
      std::string damaged = example;
      if (damaged[place] == c) continue;
      damaged[place] = c;
      EXPECT_FALSE(ParseTraceparent(damaged).has_value()) << damaged;
    }
  }
}

TEST(TraceContext, StateIsPassedOnWithinLimits) {
  EXPECT_EQ(CheckedTracestate(" rojo=00f067aa0ba902b7,congo=t61rcWkgMzE "), "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
  EXPECT_EQ(CheckedTracestate("a=1\r\nEvil: header"), "");
  EXPECT_EQ(CheckedTracestate(std::string(513, 'a')), "");
  EXPECT_EQ(CheckedTracestate(std::string(32, ',')), "");
  EXPECT_EQ(CheckedTracestate(std::string(512, 'a')), std::string(512, 'a'));
}

}  // namespace
}  // namespace conclave
