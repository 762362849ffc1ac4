# frozen_string_literal: true

require 'json'
require 'time'

# Keeps entries in a file, one JSON object a line.
class Ledger
  include Enumerable

  Entry = Struct.new(:at, :account, :cents, keyword_init: true)

  def initialize(path)
    @path = path
  end

  def add(account, cents)
    File.open(@path, 'a') do |file|
      file.puts({ at: Time.now.iso8601, account: account, cents: cents }.to_json)
    end
  end

  def each
    return enum_for(:each) unless block_given?

    File.foreach(@path) { |line| yield Entry.new(**JSON.parse(line, symbolize_names: true)) }
  end

  def balance(account)
    select { |entry| entry.account == account }.sum(&:cents)
  end
end

puts Ledger.new('ledger.jsonl').balance('cash') if $PROGRAM_NAME == __FILE__
